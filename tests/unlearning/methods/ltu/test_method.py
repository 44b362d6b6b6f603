"""LTU's loop: its switches and its refusals."""

import dataclasses
import functools

import pytest
import torch

from tests.unlearning.small import OBJECTIVE, normalised, plain, same, state, task, with_references
from unlearning.data.samples import SampleSet
from unlearning.errors import MethodRefused
from unlearning.methods.ltu import method
from unlearning.methods.ltu.feedback import combine
from unlearning.methods.ltu.queries import Neighbourhood
from unlearning.methods.registry import unlearn
from unlearning.specs import LTU, Stop
from unlearning.steps import run_to_completion
from unlearning.stopping.criterion import Check
from unlearning.task import Task

FEW = LTU(steps=4, batch_size=16, query_size=16, remain_least=1, attackers=2)


@functools.cache
def after_two_steps(spec: LTU) -> dict[str, torch.Tensor]:
    given = task(plain)
    steps = unlearn(spec, given)
    next(steps)
    next(steps)
    found = state(given.model)
    steps.close()
    return found


@pytest.mark.usefixtures("hasty_guides")
@pytest.mark.parametrize(
    "change",
    [
        {"forgetting": False},
        {"remembering": False},
        {"meta": False},
        {"combine": "alternate"},
        {"order": "first"},
        {"remain_share": 0.1},
        {"scramble_weight": 0.0},
    ],
)
def test_each_ablation_runs_and_makes_a_difference(change: dict[str, object]) -> None:
    found = after_two_steps(dataclasses.replace(FEW, **change))

    assert all(torch.isfinite(tensor).all() for tensor in found.values())
    assert not same(found, after_two_steps(FEW))


def test_guide_attacks_from_pairs_make_a_difference_where_there_are_references() -> None:
    def found(guide: str, *, references: bool) -> dict[str, torch.Tensor]:
        given = with_references(task(plain)) if references else task(plain)
        steps = unlearn(dataclasses.replace(FEW, guide=guide), given)  # type: ignore[arg-type]  # one of two words
        next(steps)
        return state(given.model)

    assert not same(found("pairs", references=True), found("populations", references=True))
    assert same(found("pairs", references=False), found("populations", references=False))


def test_the_ways_to_combine_two_gradients_that_conflict() -> None:
    forgetting, remembering = torch.tensor([1.0, 1.0]), torch.tensor([-2.0, 0.0])

    def combined(way: str, number: int = 1) -> list[float]:
        found = combine(dataclasses.replace(FEW, combine=way), forgetting, remembering, number)
        return found.tolist()

    assert combined("sum") == [-1.0, 1.0]
    assert combined("harmonise") == [-2.0, 1.0]
    assert [combined("alternate", number) for number in (1, 2)] == [[1.0, 1.0], [-2.0, 0.0]]


@pytest.mark.usefixtures("hasty_guides")
@pytest.mark.parametrize("share", [0.3, 0.1])
def test_rho_is_a_share_of_the_remaining_set(share: float, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    usual = method.neighbourhood

    def watched(*args: object, remain: SampleSet, **kwargs: object) -> Neighbourhood:
        sizes.append(len(remain))
        return usual(*args, remain=remain, **kwargs)

    monkeypatch.setattr(method, "neighbourhood", watched)
    given = task(plain)
    next(unlearn(dataclasses.replace(FEW, remain_share=share), given))

    assert sizes == [round(share * len(given.remain))]


@pytest.mark.usefixtures("hasty_guides")
def test_batch_norms_statistics_follow_remaining_data_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """With that one update and the rehearsals taken away, nothing writes them: neither meta passes nor checks."""
    monkeypatch.setattr(method, "update_running_statistics", lambda model, objective, batch: None)
    given = task(normalised)
    before = {name: buffer.clone() for name, buffer in given.model.named_buffers()}

    for _ in unlearn(dataclasses.replace(FEW, rehearsals=0, repair_steps=0), given):
        assert same(dict(given.model.named_buffers()), before)


@pytest.mark.usefixtures("hasty_guides")
def test_it_uses_no_more_than_its_share_of_the_remaining_set() -> None:
    given = task(plain)
    seen: list[torch.Tensor] = []

    def losses(forward: object, batch: object) -> torch.Tensor:
        if torch.is_grad_enabled():
            seen.append(batch.inputs)
        return OBJECTIVE.losses(forward, batch)

    given.objective = dataclasses.replace(OBJECTIVE, losses=losses)
    run_to_completion(
        unlearn(dataclasses.replace(FEW, remain_share=0.25, steps=20, stop=Stop(relearn_share=0.0)), given)
    )
    used = {tuple(inputs.tolist()) for part in seen for inputs in part}
    remaining = {tuple(inputs.tolist()) for inputs in given.remain.inputs}

    assert 0 < len(used & remaining) <= len(given.remain) // 4


def test_an_objective_that_cannot_scramble_is_refused_before_anything_changes() -> None:
    given: Task = task(plain)
    given.objective = dataclasses.replace(OBJECTIVE, scramble=None)
    before = state(given.model)

    with pytest.raises(MethodRefused, match="scramble"):
        next(unlearn(FEW, given))

    assert same(state(given.model), before)


def test_the_set_up_is_timed_and_the_guide_attacks_are_counted_apart_from_it() -> None:
    outcome = run_to_completion(unlearn(FEW, task(plain)))

    assert outcome.setup_seconds.keys() == {"neighbour_search", "guides"}
    assert all(seconds >= 0 for seconds in outcome.setup_seconds.values())
    assert outcome.metrics["guide_attacks"] == 2


@pytest.mark.usefixtures("hasty_guides")
def test_no_drop_at_all_may_be_allowed() -> None:
    run_to_completion(unlearn(dataclasses.replace(FEW, stop=Stop(allowed_drop=0.0)), task(plain)))


def test_remaining_data_are_rehearsed_by_the_share_of_the_allowed_drop_that_is_used_up() -> None:
    def check(drop: float) -> Check:
        return Check(score=0.0, direction=0.0, drop=drop, held_out_losses=torch.zeros(1))

    spec = LTU(rehearsals=3, stop=Stop(allowed_drop=2.0))
    assert [method.rehearsal_count(spec, check(drop)) for drop in (0.0, 0.5, 1.0, 2.0, 90.0)] == [0, 1, 2, 3, 3]
    assert method.rehearsal_count(dataclasses.replace(spec, remembering=False), check(2.0)) == 0


@pytest.mark.usefixtures("hasty_guides")
@pytest.mark.parametrize(("forgotten", "weight"), [(1, 1 / 16), (8, 0.5), (16, 1.0), (40, 1.0)])
def test_a_few_forget_samples_count_as_their_part_of_a_batch(
    forgotten: int, weight: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights: list[torch.Tensor] = []
    remembering = method.remembering_feedback
    monkeypatch.setattr(
        method, "forget_weights", lambda task, criterion, forget, **more: torch.ones(len(forget.targets))
    )
    monkeypatch.setattr(
        method, "remembering_feedback", lambda *given: weights.append(given[4].weights) or remembering(*given)
    )
    next(unlearn(LTU(batch_size=16, query_size=16, attackers=2), task(plain, forgotten=forgotten)))

    torch.testing.assert_close(weights[0], torch.full((min(forgotten, 16),), weight))
