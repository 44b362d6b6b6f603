"""The calibrated stop: which state is left, and when a run ends."""

from collections.abc import Callable, Mapping

import pytest
import torch
from torch import Tensor

from tests.unlearning.small import OBJECTIVE, RECIPE, comparing, normalised, plain, pooled, same, samples, state, task
from unlearning.specs import Stop
from unlearning.steps import Progress, run_to_completion
from unlearning.stopping.criterion import Check, calibrate
from unlearning.stopping.stop import Rate, original_of, relearns_slowly, run_with_stop
from unlearning.task import Task
from unlearning.training.loop import fit


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
    steps = run_with_stop(
        given, calibrate(given, NO_PROBE), becoming(given, [original, best, original, original]), steps=4
    )
    outcome = run_to_completion(steps)

    assert outcome.stopped_because == "budget"
    assert outcome.steps == 4
    assert same(state(given.model), dict(best))


def test_the_model_as_given_is_not_left_where_another_keeps_the_utility() -> None:
    """A few samples match held-out data even before unlearning: by the score alone nothing would be forgotten."""
    given = task(plain, forgotten=40)
    stop = Stop(check_every=1, tolerance=100, relearn_share=0.0, allowed_drop=30.0)
    moved = {name: tensor * 1.2 for name, tensor in state(given.model).items()}
    run_to_completion(run_with_stop(given, calibrate(given, stop), becoming(given, [moved]), steps=8, anneals=True))
    assert same(state(given.model), moved)


def test_a_run_closed_early_puts_the_best_state_back_too() -> None:
    given = task(plain, forgotten=40)
    original, best = state(given.model), never_learnt(given)
    steps = run_with_stop(given, calibrate(given, NO_PROBE), becoming(given, [best, original, wrecked(given)]), steps=9)
    for _ in range(3):
        next(steps)
    steps.close()

    assert same(state(given.model), dict(best))


@pytest.mark.parametrize(("value", "steps_taken"), [(0.0, 3), (float("nan"), 1), (float("inf"), 1)])
def test_where_the_utility_is_lost_the_run_ends_with_the_original(value: float, steps_taken: int) -> None:
    given = task(plain, forgotten=40)
    original = state(given.model)
    stop = Stop(check_every=1, relearn_share=0.0)
    outcome = run_to_completion(
        run_with_stop(given, calibrate(given, stop), becoming(given, [wrecked(given, value)]), steps=9)
    )

    assert outcome.stopped_because == "utility"
    assert outcome.steps == steps_taken
    assert same(state(given.model), original)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_never_the_best_state(value: float) -> None:
    """Their predictions may keep the allowed accuracy, for example where nearly all samples are of the first class."""
    given = task(plain, forgotten=40)
    original = state(given.model)
    stop = Stop(check_every=1, relearn_share=0.0, allowed_drop=100.0)
    outcome = run_to_completion(
        run_with_stop(given, calibrate(given, stop), becoming(given, [wrecked(given, value)]), steps=9)
    )

    assert (outcome.stopped_because, outcome.steps) == ("utility", 1)
    assert same(state(given.model), original)


def test_a_method_that_anneals_may_recover_from_a_drop() -> None:
    given = task(plain, forgotten=40)
    best = never_learnt(given)
    states = [wrecked(given)] * 5 + [best]
    outcome = run_to_completion(
        run_with_stop(given, calibrate(given, NO_PROBE), becoming(given, states), steps=6, anneals=True)
    )

    assert outcome.stopped_because == "budget"
    assert same(state(given.model), dict(best))


@pytest.mark.parametrize(("repaired", "ends_as"), [(True, "budget"), (False, "utility")])
def test_a_model_that_was_moved_before_is_compared_with_its_original(repaired: bool, ends_as: str) -> None:
    given = task(plain, forgotten=40)
    original, best = state(given.model), never_learnt(given)
    criterion = calibrate(given, NO_PROBE)
    before = original_of(given, criterion)
    given.model.load_state_dict(wrecked(given))
    states = [wrecked(given), best if repaired else wrecked(given)]
    steps = run_with_stop(given, criterion, becoming(given, states), steps=2, anneals=True, original=before)

    assert run_to_completion(steps).stopped_because == ends_as
    assert same(state(given.model), dict(best) if repaired else original)


def test_a_model_that_was_moved_before_counts_where_no_step_follows() -> None:
    given = task(plain, forgotten=40)
    criterion, best = calibrate(given, NO_PROBE), never_learnt(given)
    before = original_of(given, criterion)
    given.model.load_state_dict(best)
    steps = run_with_stop(given, criterion, becoming(given, [best]), steps=0, anneals=True, original=before)

    assert run_to_completion(steps).stopped_because == "budget"
    assert same(state(given.model), dict(best))


def test_a_drop_at_the_end_is_repaired_for_as_long_as_it_lasts() -> None:
    given = task(plain, forgotten=40)
    best = never_learnt(given)
    stop = Stop(check_every=2, tolerance=1e-6, relearn_share=0.0, allowed_drop=60.0)
    states = [wrecked(given)] * 6 + [best]
    outcome = run_to_completion(
        run_with_stop(given, calibrate(given, stop), becoming(given, states), steps=4, repair_steps=20, anneals=True)
    )

    assert outcome.steps == 8
    assert same(state(given.model), dict(best))


def test_a_repair_ends_when_its_steps_are_spent_and_is_not_begun_without_need() -> None:
    for states, taken in (("wrecked", 7), ("original", 4)):
        given = task(plain, forgotten=40)
        weights = wrecked(given) if states == "wrecked" else state(given.model)
        stop = Stop(check_every=2, tolerance=1e-6, relearn_share=0.0)
        steps = run_with_stop(
            given, calibrate(given, stop), becoming(given, [weights]), steps=4, repair_steps=3, anneals=True
        )
        assert run_to_completion(steps).steps == taken


def test_a_match_ends_the_run_at_once() -> None:
    given = comparing(pooled(0, 100), pooled(100, 400))
    stop = Stop(check_every=2, tolerance=2.0, relearn_share=0.0)
    outcome = run_to_completion(
        run_with_stop(given, calibrate(given, stop), becoming(given, [state(given.model)]), steps=9)
    )

    assert outcome.stopped_because == "matched"
    assert outcome.steps == 2
    assert outcome.metrics["match_score"] <= 2.0


def test_a_match_that_would_not_last_does_not_end_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("unlearning.stopping.stop.relearns_slowly", lambda task, stop: False)
    given = comparing(pooled(0, 100), pooled(100, 400))
    stop = Stop(tolerance=2.0)
    outcome = run_to_completion(
        run_with_stop(given, calibrate(given, stop), becoming(given, [state(given.model)]), steps=4)
    )

    assert outcome.stopped_because == "budget"


def prepared(forgotten: int = 60) -> Task:
    given = task(plain, forgotten=forgotten)
    given.criterion = samples(300, seed=99)
    return given


def test_a_memorised_set_is_relearned_at_once() -> None:
    assert not relearns_slowly(prepared(), stop=Stop())


def test_a_set_never_learned_takes_as_long_as_the_control() -> None:
    given = prepared()
    given.forget = samples(60, seed=98)

    assert relearns_slowly(given, stop=Stop())
    assert relearns_slowly(given, stop=Stop(relearn_share=0.8))


def test_after_retraining_the_forgotten_set_takes_its_time() -> None:
    given = prepared()
    given.model = fit(plain, given.remain, RECIPE, objective=OBJECTIVE, seed=5)

    assert relearns_slowly(given, stop=Stop(relearn_share=0.7))


def test_a_share_of_zero_turns_the_probe_off() -> None:
    assert relearns_slowly(prepared(), stop=Stop(relearn_share=0.0))


def test_if_the_control_is_not_learned_either_the_probe_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("unlearning.stopping.stop._RATE", 1e-9)

    assert relearns_slowly(prepared(), stop=Stop())


def test_a_class_that_the_criterion_lacks_does_not_stop_the_probe() -> None:
    given = prepared()
    given.forget = given.forget.take((given.forget.targets == 2).nonzero().flatten())
    given.criterion = given.criterion.take((given.criterion.targets != 2).nonzero().flatten())

    assert not relearns_slowly(given, stop=Stop())


def test_the_model_and_the_random_state_are_left_alone() -> None:
    given = task(normalised)
    before, random_state = state(given.model), torch.get_rng_state()
    relearns_slowly(given, stop=Stop())

    assert same(state(given.model), before)
    assert torch.equal(torch.get_rng_state(), random_state)
    assert all(parameter.grad is None for parameter in given.model.parameters())


def test_a_rate_that_costs_too_much_is_lowered_until_a_state_keeps_the_utility() -> None:
    given = task(plain, forgotten=40)
    original, best = state(given.model), never_learnt(given)
    rate = Rate()
    numbers: list[int] = []

    def step(number: int, last: Check) -> Mapping[str, float]:
        numbers.append(number)
        given.model.load_state_dict(best if rate.factor < 0.1 else wrecked(given, float("nan") if number > 1 else 0.0))
        return {}

    seen: list[Progress] = []
    outcome = run_to_completion(
        run_with_stop(given, calibrate(given, NO_PROBE), step, steps=3, rate=rate, anneals=True), seen.append
    )

    assert (rate.factor, outcome.stopped_because, outcome.steps) == (1 / 16, "budget", len(numbers))
    assert numbers == [1, 2, 1, 2, 1, 2, 3]
    assert [progress.step for progress in seen] == [1, 2, 3, 4, 5, 6, 7]
    assert all(progress.step <= progress.total for progress in seen)
    assert same(state(given.model), dict(best))
    assert not same(original, dict(best))


def test_where_no_rate_keeps_the_utility_the_outcome_says_so() -> None:
    given = task(plain, forgotten=40)
    original = state(given.model)
    stop = Stop(check_every=1, relearn_share=0.0)
    steps = run_with_stop(
        given, calibrate(given, stop), becoming(given, [wrecked(given)]), steps=2, rate=Rate(), anneals=True
    )
    outcome = run_to_completion(steps)

    assert (outcome.stopped_because, outcome.steps) == ("utility", 8)
    assert same(state(given.model), original)
