"""Shadow models: trained with their members, which the audited method then unlearns; only their margins are stored."""

import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.unlearning.audit.attacks.conftest import QUICK
from tests.unlearning.small import OBJECTIVE
from unlearning.audit.attacks.shadows import (
    Repeats,
    Shadows,
    estimate_cost,
    run_repeat,
    run_repeats,
    run_shadow,
    run_shadows,
)
from unlearning.audit.attacks.study import Study, members_of, own_references, seed_of
from unlearning.audit.signals import observe
from unlearning.data.samples import joined
from unlearning.errors import MethodRefused
from unlearning.methods.registry import unlearn
from unlearning.specs import Matching
from unlearning.specs.references import ReferencePlan
from unlearning.state import State
from unlearning.steps import run_to_completion
from unlearning.task import Task
from unlearning.training.loop import fit


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("shadows")


@pytest.fixture(scope="module")
def four(small_study: Study, folder: Path) -> Shadows:
    """Four shadow models, which are stored in `folder`."""
    return run_to_completion(run_shadows(small_study, count=4, folder=folder))


def test_a_shadow_model_is_trained_with_its_members_and_then_unlearns_them(small_study: Study, tmp_path: Path) -> None:
    found = run_to_completion(run_shadow(small_study, 3, tmp_path))
    given: Task = small_study.task
    inside = small_study.pool.take(torch.from_numpy(np.flatnonzero(members_of(small_study, 3))))
    seed = seed_of(small_study, 0, 3)
    model = fit(given.build, joined(given.remain, inside), given.recipe, objective=OBJECTIVE, seed=seed)
    seen = joined(small_study.pool, small_study.population)
    np.testing.assert_allclose(found["before"], observe(model, seen, objective=OBJECTIVE).margin)
    run_to_completion(
        unlearn(small_study.spec, dataclasses.replace(given, model=model, forget=inside, seed=seed, state=State()))
    )

    np.testing.assert_allclose(found["after"], observe(model, seen, objective=OBJECTIVE).margin)
    assert not np.allclose(found["before"], found["after"])


def test_with_a_plan_each_shadow_model_unlearns_with_references_of_its_own(small_study: Study, tmp_path: Path) -> None:
    plan = ReferencePlan(rounds=1, audit_rounds=1, epochs=0.5)
    study = dataclasses.replace(small_study, spec=Matching(steps=5, batch_size=16), plan=plan)
    found = run_to_completion(run_shadow(study, 3, tmp_path))
    kept = sorted((tmp_path / "references").rglob("*.npz"))
    given, inside = study.task, study.pool.take(torch.from_numpy(np.flatnonzero(members_of(study, 3))))

    # A reference model of the shadow model's own training set says of its members what the method aimed at.
    seed = seed_of(study, 0, 3)
    references = run_to_completion(own_references(study, inside, seed=seed, folder=tmp_path / "references"))
    assert references is not None
    assert len(references) == len(inside)
    seen = joined(given.remain, inside, given.guide, given.criterion)
    first = dict(np.load(kept[0]))
    assert len(kept) == 4
    assert len(first["seen"]) == len(seen)
    model = fit(given.build, joined(given.remain, inside), given.recipe, objective=OBJECTIVE, seed=seed)
    task = dataclasses.replace(given, model=model, forget=inside, seed=seed, state=State(), references=references)
    run_to_completion(unlearn(study.spec, task))
    pool = joined(study.pool, study.population)
    np.testing.assert_allclose(found["after"], observe(model, pool, objective=OBJECTIVE).margin, atol=1e-6)

    # Another method's study of the same models uses them too.
    times = [path.stat().st_mtime_ns for path in kept]
    run_to_completion(run_shadow(dataclasses.replace(study, spec=QUICK), 3, tmp_path))
    assert [path.stat().st_mtime_ns for path in sorted((tmp_path / "references").rglob("*.npz"))] == times
    with pytest.raises(MethodRefused, match="reference predictions"):
        run_to_completion(run_shadow(dataclasses.replace(study, plan=None), 3, tmp_path))


def test_members_have_larger_margins_as_trained(four: Shadows) -> None:
    pool = four.before[:, : four.members.shape[1]]

    assert four.members.shape == (4, 48)
    assert four.before.shape == four.after.shape == (4, 48 + 56)
    assert pool[four.members].mean() > pool[~four.members].mean() + 1


def test_an_interrupted_study_continues_and_gives_the_same_results(
    small_study: Study, four: Shadows, tmp_path: Path
) -> None:
    steps = run_shadows(small_study, count=4, folder=tmp_path)
    for progress in steps:
        if progress.step == 2 and progress.metrics["run"] > 0.3:
            break
    steps.close()
    written = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.npz")}
    resumed = run_to_completion(run_shadows(small_study, count=4, folder=tmp_path))

    assert len(written) == 2
    assert all(path.stat().st_mtime_ns == when for path, when in written.items())
    for name in ("members", "before", "after"):
        np.testing.assert_array_equal(getattr(resumed, name), getattr(four, name))


@pytest.mark.usefixtures("four")
def test_neither_weights_nor_ids_are_kept(small_study: Study, folder: Path) -> None:
    content = b"".join(path.read_bytes() for path in folder.rglob("*.npz"))

    assert content
    assert not any(sample.encode() in content for sample in small_study.pool.ids)
    assert len(content) < 4 * sum(p.numel() for p in small_study.task.model.parameters()) * 8


def test_a_repeat_retrains_from_a_seed_of_its_own(small_study: Study, tmp_path: Path) -> None:
    found = run_to_completion(run_repeat(small_study, 1, tmp_path))
    given = small_study.task
    retrained = fit(given.build, given.remain, given.recipe, objective=OBJECTIVE, seed=seed_of(small_study, 2, 1))
    seen = observe(retrained, given.remain, objective=OBJECTIVE)

    np.testing.assert_allclose(found["retrained"], observe(retrained, given.forget, objective=OBJECTIVE).margin)
    assert found["retrained_accuracies"][0] == seen.correct.mean()


def test_each_repeat_differs_and_all_are_stacked(small_study: Study, tmp_path: Path) -> None:
    found = run_to_completion(run_repeats(small_study, count=4, folder=tmp_path))

    assert found.unlearned.shape == found.retrained.shape == (4, len(small_study.task.forget))
    assert found.unlearned_accuracies.shape == (4, 2)
    assert len(np.unique(found.retrained[:, 0])) == 4


def test_the_utility_is_the_product_of_the_ratios_to_retraining() -> None:
    nothing = np.zeros((2, 1))
    found = Repeats(
        unlearned=nothing,
        retrained=nothing,
        unlearned_accuracies=np.array([[0.8, 0.6], [1.0, 0.6]]),
        retrained_accuracies=np.array([[1.0, 0.8], [1.0, 0.8]]),
    )

    assert found.utility == pytest.approx(0.9 * 0.75)


@pytest.mark.parametrize(
    ("best", "unlearned", "retrained", "wanted"),
    [
        (0.0, -0.9, -0.7, math.exp(-0.2)),  # a log-likelihood, in nats: the ratio of the likelihoods
        (1.0, -0.2, 0.5, 0.0),  # worse than a guess, where retraining is not
        (1.0, 0.3, -0.1, 1.0),  # retraining itself is worse than a guess
    ],
)
def test_a_merit_below_zero_has_no_ratio(best: float, unlearned: float, retrained: float, wanted: float) -> None:
    nothing = np.zeros((2, 1))
    found = Repeats(
        unlearned=nothing,
        retrained=nothing,
        unlearned_accuracies=np.full((2, 1), unlearned),
        retrained_accuracies=np.full((2, 1), retrained),
        best=best,
    )

    assert found.utility == pytest.approx(wanted)


@pytest.mark.usefixtures("four")
def test_runs_that_are_done_are_not_counted(small_study: Study, folder: Path, tmp_path: Path) -> None:
    before, after = (
        estimate_cost(small_study, shadow_count=6, repeat_count=4, folder=where) for where in (tmp_path, folder)
    )

    assert (before.shadows, before.repeats) == (6, 4)
    assert (after.shadows, after.repeats) == (2, 4)
    assert before.seconds > 0


@pytest.mark.usefixtures("four")
def test_nothing_left_costs_nothing(small_study: Study, folder: Path) -> None:
    assert estimate_cost(small_study, shadow_count=4, repeat_count=0, folder=folder).seconds == 0


def test_the_estimate_leaves_the_model_alone(small_study: Study, tmp_path: Path) -> None:
    before = {name: p.clone() for name, p in small_study.task.model.state_dict().items()}
    estimate_cost(small_study, shadow_count=4, repeat_count=4, folder=tmp_path)

    assert all(p.equal(before[name]) for name, p in small_study.task.model.state_dict().items())
    assert not list(tmp_path.iterdir())
