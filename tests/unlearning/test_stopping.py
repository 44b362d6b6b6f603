"""The calibrated stop, against sets whose truth is known and against the binomial law."""

import copy
import dataclasses
import math
from collections.abc import Callable, Mapping

import numpy as np
import pytest
import torch
from scipy.stats import binom
from torch import Tensor, nn

from tests.unlearning.small import CLASSES, OBJECTIVE, RECIPE, plain, same, samples, state, task
from unlearning.samples import SampleSet
from unlearning.specs import Stop
from unlearning.stopping import (
    Check,
    _matching_weights,
    _quantile_differences,
    calibrate,
    check,
    matched,
    until_matched,
)
from unlearning.task import Task
from unlearning.training import drain, fit

POOL = samples(3000, seed=99)
"""Never trained on."""


def of(forget: SampleSet, criterion: SampleSet) -> Task:
    given = task(plain)
    given.forget, given.criterion = forget, criterion
    return given


def pooled(start: int, stop: int) -> SampleSet:
    return POOL.take(torch.arange(start, stop))


def looked(given: Task, stop: Stop | None = None) -> Check:
    return check(calibrate(given, stop or Stop()), given.model)


def wrong(given: Task) -> Task:
    """The forget set with the labels that the model thinks least likely."""
    with torch.no_grad():
        targets = given.model(given.forget.inputs).argmin(-1)
    given.forget = dataclasses.replace(given.forget, targets=targets)
    return given


def test_the_score_of_never_learnt_sets_is_one_on_average_and_their_direction_none() -> None:
    """Standardised differences: their mean square is 1 where nothing differs, whatever the model is."""
    found = []
    for seed in range(100):
        order = torch.randperm(len(POOL), generator=torch.Generator().manual_seed(seed))
        found.append(looked(of(POOL.take(order[:100]), POOL.take(order[100:300]))))
    scores, directions = (np.array([getattr(c, name) for c in found]) for name in ("score", "direction"))

    assert 0.85 < math.sqrt((scores**2).mean()) < 1.15
    assert abs(directions.mean()) < 3 * directions.std() / math.sqrt(len(directions))


def test_a_never_learnt_set_is_matched() -> None:
    given = of(pooled(0, 100), pooled(100, 400))
    criterion = calibrate(given, Stop(tolerance=2.0))

    assert matched(criterion, check(criterion, given.model))


def test_a_memorised_set_is_not_and_looks_known() -> None:
    given = of(task(plain, forgotten=40).forget, pooled(0, 200))
    criterion = calibrate(given, Stop(tolerance=2.0))
    found = check(criterion, given.model)

    assert not matched(criterion, found)
    assert found.score > 3
    assert found.direction < -2


def test_an_unusually_wrong_set_is_not_either_and_stands_out_the_other_way() -> None:
    given = wrong(of(task(plain, forgotten=40).forget, pooled(0, 200)))
    criterion = calibrate(given, Stop(tolerance=2.0))
    found = check(criterion, given.model)

    assert not matched(criterion, found)
    assert found.score > 3
    assert found.direction > 2


def test_a_set_compared_with_itself_matches_perfectly() -> None:
    assert looked(of(pooled(0, 100), pooled(0, 100))).score < 1e-5


def test_matching_alone_does_not_count_where_the_utility_is_lost() -> None:
    criterion = calibrate(of(pooled(0, 100), pooled(100, 400)), Stop(tolerance=2.0, allowed_drop=1.0))

    assert matched(criterion, Check(score=1.9, direction=0.0, drop=1.0, held_out_losses=torch.zeros(1)))
    assert not matched(criterion, Check(score=1.9, direction=0.0, drop=1.1, held_out_losses=torch.zeros(1)))
    assert not matched(criterion, Check(score=2.1, direction=0.0, drop=0.0, held_out_losses=torch.zeros(1)))


def test_a_guides_score_is_one_more_signal() -> None:
    """A membership model that sees what loss and entropy do not is heard."""
    given = of(pooled(0, 100), pooled(100, 400))
    marked = {tuple(inputs.tolist()) for inputs in given.forget.inputs}
    tells = lambda forward, batch: torch.tensor([float(tuple(i.tolist()) not in marked) for i in batch.inputs])  # noqa: E731
    criterion = calibrate(given, Stop(), guides=[tells])

    assert check(criterion, given.model).score > looked(given).score + 1


def test_the_drop_is_the_accuracy_lost_beyond_one_standard_error() -> None:
    given = of(pooled(0, 100), pooled(100, 400))
    criterion = calibrate(given, Stop())
    assert check(criterion, given.model).drop == 0

    with torch.no_grad():
        given.model[-1].weight.zero_()
        given.model[-1].bias.copy_(torch.tensor([1.0, 0, 0, 0]))
        lost = criterion.right_before[0] - 100 * (criterion.remain.targets == 0).float()
    found = check(criterion, given.model)

    assert found.drop == pytest.approx(float(lost.mean()) - float(lost.std(correction=0)) / math.sqrt(len(lost)))


def test_the_held_out_set_is_weighted_to_the_forget_sets_mix_of_classes() -> None:
    forget = pooled(0, 100).take((pooled(0, 100).targets != 3).nonzero().flatten())
    held_out = pooled(100, 300)
    weights = _matching_weights(forget, held_out, OBJECTIVE)

    assert float(weights.sum()) == pytest.approx(1)
    for label in range(CLASSES):
        share = float((forget.targets == label).float().mean())
        assert float(weights[held_out.targets == label].sum()) == pytest.approx(share, abs=1e-6)


def test_a_difference_of_classes_alone_is_not_taken_for_a_difference() -> None:
    """All of class 0, against a held-out set of every class, on a model that is right about class 0 alone."""
    zeros = (POOL.targets == 0).nonzero().flatten()
    given = of(
        POOL.take(zeros[:100]), POOL.take(torch.cat([zeros[100:300], (POOL.targets != 0).nonzero().flatten()[:400]]))
    )
    with torch.no_grad():
        given.model[-1].bias[0] += 8
    assert looked(given).score < 2.5

    unweighted = calibrate(given, Stop())
    unweighted = dataclasses.replace(unweighted, weights=torch.full_like(unweighted.weights, 1 / len(given.criterion)))
    assert check(unweighted, given.model).score > 5


def test_without_a_common_class_the_held_out_set_counts_evenly() -> None:
    zeros, ones = (POOL.take((POOL.targets == label).nonzero().flatten()) for label in (0, 1))
    weights = _matching_weights(zeros, ones, OBJECTIVE)

    torch.testing.assert_close(weights, torch.full((len(ones),), 1 / len(ones)))


def test_the_quantile_differences_are_binomial_standard_scores() -> None:
    generator = torch.Generator().manual_seed(0)
    forget, held_out = torch.randn(60, generator=generator) + 0.4, torch.randn(101, generator=generator)
    found = _quantile_differences(forget, held_out, torch.full((101,), 1 / 101))

    for value, q in zip(found, (0.25, 0.5, 0.75, 0.9), strict=True):
        threshold = np.quantile(held_out.numpy(), q, method="inverted_cdf")
        share = (forget.numpy() > threshold).mean()
        expected = (
            held_out.numpy() > threshold
        ).mean() + 0.5 / 101  # the threshold is itself a held-out value: half of it
        spread = math.hypot(binom(60, 1 - q).std() / 60, binom(101, 1 - q).std() / 101)
        assert value == pytest.approx((share - expected) / spread, abs=1e-5)


def test_integer_weights_count_like_repeated_samples() -> None:
    generator = torch.Generator().manual_seed(1)
    forget, held_out = torch.randn(60, generator=generator), torch.randn(101, generator=generator)
    times = torch.randint(1, 4, (101,), generator=generator)
    repeated = held_out.repeat_interleave(times)
    weighted = _quantile_differences(forget, held_out, times / times.sum())
    plainly = _quantile_differences(forget, repeated, torch.full((len(repeated),), 1 / len(repeated)))
    # The same thresholds and shares; repeated samples carry less information than so many distinct ones.
    effective = float(times.sum()) ** 2 / float((times**2).sum())
    scale = math.sqrt((1 / 60 + 1 / len(repeated)) / (1 / 60 + 1 / effective))

    assert weighted == pytest.approx([value * scale for value in plainly], abs=1e-4)


def test_tied_values_are_no_difference() -> None:
    """Losses of a sure model are exactly 0 in float32, by the hundred."""
    values = torch.cat([torch.zeros(60), torch.linspace(0.1, 1, 40)])

    assert max(map(abs, _quantile_differences(values, values, torch.full((100,), 0.01)))) < 0.1


def becoming(given: Task, states: list[Mapping[str, Tensor]]) -> Callable[[int, Check], Mapping[str, float]]:
    """A method whose steps put known weights into the model."""

    def step(number: int, last: Check) -> Mapping[str, float]:
        given.model.load_state_dict(states[min(number, len(states)) - 1])
        return {"number": float(number)}

    return step


def never_learnt(given: Task) -> Mapping[str, Tensor]:
    return state(fit(plain, given.remain, RECIPE, objective=OBJECTIVE, seed=5))


def wrecked(given: Task, value: float = 0.0) -> Mapping[str, Tensor]:
    return {name: torch.full_like(tensor, value) for name, tensor in given.model.state_dict().items()}


NO_PROBE = Stop(check_every=1, tolerance=1e-6, relearn_share=0.0, allowed_drop=30.0)


def test_the_best_state_seen_is_put_back() -> None:
    given = task(plain, forgotten=40)
    original, best = state(given.model), never_learnt(given)
    steps = until_matched(
        given, calibrate(given, NO_PROBE), becoming(given, [original, best, original, original]), steps=4
    )
    outcome = drain(steps)

    assert outcome.stopped_because == "budget"
    assert outcome.steps == 4
    assert same(state(given.model), dict(best))


def test_a_run_closed_early_puts_the_best_state_back_too() -> None:
    given = task(plain, forgotten=40)
    original, best = state(given.model), never_learnt(given)
    steps = until_matched(given, calibrate(given, NO_PROBE), becoming(given, [best, original, wrecked(given)]), steps=9)
    for _ in range(3):
        next(steps)
    steps.close()

    assert same(state(given.model), dict(best))


@pytest.mark.parametrize(("value", "steps_taken"), [(0.0, 3), (float("nan"), 1), (float("inf"), 1)])
def test_where_the_utility_is_lost_the_run_ends_with_the_original(value: float, steps_taken: int) -> None:
    given = task(plain, forgotten=40)
    original = state(given.model)
    stop = Stop(check_every=1, relearn_share=0.0)
    outcome = drain(until_matched(given, calibrate(given, stop), becoming(given, [wrecked(given, value)]), steps=9))

    assert outcome.stopped_because == "utility"
    assert outcome.steps == steps_taken
    assert same(state(given.model), original)


def test_a_method_that_anneals_may_recover_from_a_drop() -> None:
    given = task(plain, forgotten=40)
    best = never_learnt(given)
    states = [wrecked(given)] * 5 + [best]
    outcome = drain(until_matched(given, calibrate(given, NO_PROBE), becoming(given, states), steps=6, anneals=True))

    assert outcome.stopped_because == "budget"
    assert same(state(given.model), dict(best))


def test_a_drop_at_the_end_is_repaired_for_as_long_as_it_lasts() -> None:
    given = task(plain, forgotten=40)
    best = never_learnt(given)
    stop = Stop(check_every=2, tolerance=1e-6, relearn_share=0.0, allowed_drop=60.0)
    states = [wrecked(given)] * 6 + [best]
    outcome = drain(
        until_matched(given, calibrate(given, stop), becoming(given, states), steps=4, repair_steps=20, anneals=True)
    )

    assert outcome.steps == 8
    assert same(state(given.model), dict(best))


def test_a_repair_ends_when_its_steps_are_spent_and_is_not_begun_without_need() -> None:
    for states, taken in (("wrecked", 7), ("original", 4)):
        given = task(plain, forgotten=40)
        weights = wrecked(given) if states == "wrecked" else state(given.model)
        stop = Stop(check_every=2, tolerance=1e-6, relearn_share=0.0)
        steps = until_matched(
            given, calibrate(given, stop), becoming(given, [weights]), steps=4, repair_steps=3, anneals=True
        )
        assert drain(steps).steps == taken


def test_a_match_ends_the_run_at_once() -> None:
    given = of(pooled(0, 100), pooled(100, 400))
    stop = Stop(check_every=2, tolerance=2.0, relearn_share=0.0)
    outcome = drain(until_matched(given, calibrate(given, stop), becoming(given, [state(given.model)]), steps=9))

    assert outcome.stopped_because == "matched"
    assert outcome.steps == 2
    assert outcome.metrics["match_score"] <= 2.0


def test_a_match_that_would_not_last_does_not_end_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("unlearning.stopping.lasting", lambda task, stop: False)
    given = of(pooled(0, 100), pooled(100, 400))
    stop = Stop(tolerance=2.0)
    outcome = drain(until_matched(given, calibrate(given, stop), becoming(given, [state(given.model)]), steps=4))

    assert outcome.stopped_because == "budget"


def test_a_check_leaves_the_model_and_the_random_state_alone() -> None:
    given = of(pooled(0, 100), pooled(100, 400))
    before, random_state = state(given.model), torch.get_rng_state()
    looked(given)

    assert same(state(given.model), before)
    assert torch.equal(torch.get_rng_state(), random_state)


def test_without_classes_losses_alone_are_compared() -> None:
    given = of(task(plain, forgotten=40).forget, pooled(0, 200))
    given.objective = dataclasses.replace(OBJECTIVE, logits=None, classes=None)
    found = looked(given)
    assert found.direction < -2

    criterion = calibrate(given, Stop())
    worse = copy.deepcopy(given.model)
    nn.init.zeros_(worse[-1].weight)
    nn.init.zeros_(worse[-1].bias)
    assert check(criterion, worse).drop > 30
