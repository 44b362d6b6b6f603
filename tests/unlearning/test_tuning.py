"""The budgeted search: the same specs for a seed, the best returned, and no use of data that it must not see."""

import dataclasses
import math
import typing

import pytest
import torch

from tests.unlearning.kinds import OBJECTIVES, make_task
from tests.unlearning.small import plain, same, state, task
from unlearning.data.objectives import answers
from unlearning.data.references import ReferencePredictions
from unlearning.data.samples import joined
from unlearning.errors import InvalidSpec, MethodRefused
from unlearning.specs import SPECS, SSD, FineTune, Retrain, Spec
from unlearning.steps import run_to_completion
from unlearning.task import Task
from unlearning.tuning import (
    SPACES,
    Range,
    candidates,
    judge_by_criterion,
    judge_by_retrained,
    retrain_without_split,
    search,
    validation_task,
)

every_kind = pytest.mark.parametrize("kind", sorted(SPECS))


def spread_of_weights(model: torch.nn.Module) -> float:
    return float(sum(p.detach().abs().sum() for p in model.parameters()))


@every_kind
def test_both_ends_and_the_middle_of_every_space_are_specs(kind: str) -> None:
    fields = typing.get_type_hints(SPECS[kind])
    for share in (0.0, 0.5, 1.0):
        values = {name: values.at(share) for name, values in SPACES[kind].items()}
        assert all(type(value) is fields[name] for name, value in values.items())
        SPECS[kind](**values)


@every_kind
def test_every_method_gets_the_same_budget_and_its_defaults_first(kind: str) -> None:
    found = candidates(SPECS[kind](), SPACES[kind], budget=9, seed=0)

    assert found[0] == SPECS[kind]()
    assert len(set(map(str, found))) == (9 if SPACES[kind] else 1)


def test_the_seed_tells_the_specs() -> None:
    one, again, other = (candidates(SSD(), SPACES["ssd"], budget=8, seed=seed) for seed in (1, 1, 2))

    assert one == again
    assert one[1:] != other[1:]


def test_trials_are_spread_evenly_over_their_scale() -> None:
    found = candidates(SSD(), {"selection": Range(low=0.01, high=100)}, budget=65, seed=0)[1:]

    for quarter in range(4):
        inside = [spec for spec in found if 10.0 ** (quarter - 2) <= spec.selection < 10.0 ** (quarter - 1)]
        # A Halton sequence of 64 in base 2 has exactly 16 in each quarter.
        assert len(inside) == 16


@pytest.mark.parametrize(("low", "high", "scale"), [(1, 1, "log"), (2, 1, "linear"), (0, 1, "log")])
def test_an_empty_range_is_refused(low: float, high: float, scale: str) -> None:
    with pytest.raises(InvalidSpec):
        Range(low=low, high=high, scale=scale)


def test_a_whole_range_gives_whole_numbers() -> None:
    assert [Range(low=1, high=4, scale="linear", whole=True).at(share) for share in (0.0, 0.4, 1.0)] == [1, 2, 4]


def test_the_best_trial_is_found() -> None:
    steps = search(SSD(), validation_task(task(plain), size=20, seed=0), spread_of_weights, budget=6, seed=0)
    found = run_to_completion(steps)

    assert len(found.trials) == 6
    assert found.spec == min(found.trials, key=lambda trial: trial.score).spec
    assert found.spec != SSD()
    assert all(trial.seconds > 0 for trial in found.trials)


def test_equals_leave_the_given_spec_as_it_is() -> None:
    found = run_to_completion(
        search(SSD(), validation_task(task(plain), size=20, seed=0), lambda _: 1.0, budget=4, seed=0)
    )

    assert found.spec == SSD()


def test_the_same_seed_gives_the_same_scores() -> None:
    make = validation_task(task(plain), size=20, seed=0)
    runs = [run_to_completion(search(FineTune(epochs=2), make, spread_of_weights, budget=3, seed=0)) for _ in range(2)]

    assert [(t.spec, t.score) for t in runs[0].trials] == [(t.spec, t.score) for t in runs[1].trials]


def test_weights_that_are_not_finite_never_win() -> None:
    space = {"learning_rate": Range(low=99, high=100)}
    found = run_to_completion(
        search(
            FineTune(epochs=30),
            validation_task(task(plain), size=20, seed=0),
            lambda m: -spread_of_weights(m),
            budget=2,
            seed=0,
            space=space,
        )
    )

    assert [trial.score == math.inf for trial in found.trials] == [False, True]
    assert found.spec == FineTune(epochs=30)


def test_the_validation_split_is_of_remaining_data_and_the_forget_set_is_not_in_it() -> None:
    given = task(plain)
    before = state(given.model)
    made, again = (validation_task(given, size=30, seed=5)() for _ in range(2))

    assert set(made.forget.ids) | set(made.remain.ids) == set(given.remain.ids)
    assert len(made.forget) == 30
    assert not set(made.forget.ids) & set(made.remain.ids)
    assert not set(given.forget.ids) & (set(made.forget.ids) | set(made.remain.ids))
    assert made.forget.ids == again.forget.ids
    assert made.forget.ids != validation_task(given, size=30, seed=6)().forget.ids
    made.check()
    assert same(state(made.model), before)
    assert made.model is not given.model
    assert made.state is not given.state


def test_a_trial_leaves_the_next_ones_model_alone() -> None:
    given = task(plain)
    before = state(given.model)
    make = validation_task(given, size=20, seed=0)
    run_to_completion(search(FineTune(epochs=1), make, spread_of_weights, budget=2, seed=0))

    assert same(state(make().model), before)
    assert same(state(given.model), before)


@pytest.mark.parametrize("size", [0, 96, 97])
def test_a_split_that_leaves_nothing_is_refused(size: int) -> None:
    with pytest.raises(MethodRefused, match="validation forget split"):
        validation_task(task(plain), size=size, seed=0)


def test_a_task_has_neither_the_test_set_nor_an_attack() -> None:
    """What a search is given is a Task; if it ever holds more, this must be thought over.

    Its references hold what the method rounds predict, of other samples too, and nothing of the audit's rounds.
    """
    assert {field.name for field in dataclasses.fields(ReferencePredictions)} == {
        "predictions",
        "losses",
        "whole",
        "others",
    }
    assert {field.name for field in dataclasses.fields(Task)} == {
        "model", "build", "objective", "recipe", "forget", "remain", "guide", "criterion", "seed", "state",
        "references", "adapters", "checkpoint", "keep_slice",
    }  # fmt: skip


def test_the_retrained_model_has_no_gap_to_itself_and_the_original_a_large_one() -> None:
    made = validation_task(task(plain), size=30, seed=0)()
    retrained = retrain_without_split(made, seed=0)
    judge = judge_by_retrained(made, retrained)

    assert judge(retrained) == 0
    # The original knows what the retrained never saw: these data can only be memorised.
    assert judge(made.model) > 10


def test_the_gap_is_the_mean_of_four_differences_in_points() -> None:
    made = validation_task(task(plain), size=30, seed=0)()
    retrained = retrain_without_split(made, seed=0)
    differences = []
    with torch.no_grad():
        held_out = [torch.cat(pair) for pair in zip(made.criterion.batch, made.guide.batch, strict=True)]
        for inputs, targets in (made.forget.batch, made.remain.batch, held_out):
            right = [float((model(inputs).argmax(-1) == targets).double().mean()) for model in (made.model, retrained)]
            differences.append(abs(right[0] - right[1]))
        sure = [
            float(model(made.forget.inputs).softmax(-1)[torch.arange(30), made.forget.targets].double().mean())
            for model in (made.model, retrained)
        ]
    differences.append(abs(sure[0] - sure[1]))

    assert judge_by_retrained(made, retrained)(made.model) == pytest.approx(100 * sum(differences) / 4, rel=1e-5)


def test_without_a_retrained_model_the_criterion_prefers_a_model_that_never_saw_the_forget_set() -> None:
    make = validation_task(task(plain), size=40, seed=0)
    judge = judge_by_criterion(make())

    assert judge(make().model) > judge(retrain_without_split(make(), seed=0))


@pytest.mark.parametrize("name", ["multi-label", "regression", "causal language model", "losses alone"])
def test_without_classes_the_gap_is_one_of_merit(name: str) -> None:
    made = make_task(OBJECTIVES[name], epochs=60)
    retrained = retrain_without_split(made, seed=0)
    judge, merit = judge_by_retrained(made, retrained), made.objective.utility
    gaps, sure = [], []
    for number, samples in enumerate((made.forget, made.remain, joined(made.criterion, made.guide))):
        with torch.no_grad():
            found = [answers(made.objective, model, samples.batch) for model in (made.model, retrained)]
        points = [float(merit.of(one).double().mean().clamp(*merit.bounds)) for one in found]
        gaps.append(abs(points[0] - points[1]))
        if number == 0:
            sure = [100 * float((-one.losses).exp().mean()) for one in found]

    assert judge(retrained) == 0
    assert judge(made.model) == pytest.approx((sum(gaps) + abs(sure[0] - sure[1])) / 4, rel=1e-4)
    assert judge(made.model) > 1


def test_retraining_has_nothing_to_search() -> None:
    given: Spec = Retrain()

    assert candidates(given, SPACES["retrain"], budget=20, seed=0) == (given,)
