"""The cost is told before it is spent, and what is on disk is not counted again."""

from pathlib import Path

from unlearning.audit.attacks.shadows import cost, shadows
from unlearning.audit.attacks.study import Study
from unlearning.task import run_to_completion


def test_runs_that_are_done_are_not_counted(small_study: Study, tmp_path: Path) -> None:
    before = cost(small_study, shadow_count=8, repeat_count=4, folder=tmp_path)
    run_to_completion(shadows(small_study, count=6, folder=tmp_path))
    after = cost(small_study, shadow_count=8, repeat_count=4, folder=tmp_path)

    assert (before.shadows, before.repeats) == (8, 4)
    assert (after.shadows, after.repeats) == (2, 4)
    assert before.seconds > 0


def test_nothing_left_costs_nothing(small_study: Study, tmp_path: Path) -> None:
    run_to_completion(shadows(small_study, count=4, folder=tmp_path))

    assert cost(small_study, shadow_count=4, repeat_count=0, folder=tmp_path).seconds == 0


def test_the_estimate_leaves_the_model_alone(small_study: Study, tmp_path: Path) -> None:
    before = {name: p.clone() for name, p in small_study.task.model.state_dict().items()}
    cost(small_study, shadow_count=4, repeat_count=4, folder=tmp_path)

    assert all(p.equal(before[name]) for name, p in small_study.task.model.state_dict().items())
    assert not list(tmp_path.iterdir())
