"""What the calibrated stop compares, against sets whose truth is known and against the binomial law."""

import copy
import dataclasses
import math

import numpy as np
import pytest
import torch
from scipy.stats import binom
from torch import nn

from tests.unlearning.small import CLASSES, OBJECTIVE, POOL, comparing, plain, pooled, same, state, task
from unlearning.data.samples import SampleSet, joined
from unlearning.errors import MethodRefused
from unlearning.hardware import batched_answers
from unlearning.specs import Stop
from unlearning.stopping.criterion import (
    Check,
    calibrate,
    check,
    fully_forgotten_classes,
    in_classes,
    matched,
    matching_weights,
    quantile_differences,
    weighted_quantiles,
)
from unlearning.task import Task


def checked(given: Task, stop: Stop | None = None) -> Check:
    return check(calibrate(given, stop or Stop()), given.model)


def wrong(given: Task) -> Task:
    """The forget set with the labels that the model thinks least likely."""
    with torch.no_grad():
        targets = given.model(given.forget.inputs).argmin(-1)
    given.forget = dataclasses.replace(given.forget, targets=targets)
    return given


def test_the_score_of_never_learned_sets_is_one_on_average_and_their_direction_none() -> None:
    """Standardised differences: their mean square is 1 where nothing differs, whatever the model is."""
    found = []
    for seed in range(100):
        order = torch.randperm(len(POOL), generator=torch.Generator().manual_seed(seed))
        found.append(checked(comparing(POOL.take(order[:100]), POOL.take(order[100:300]))))
    scores, directions = (np.array([getattr(c, name) for c in found]) for name in ("score", "direction"))

    assert 0.85 < math.sqrt((scores**2).mean()) < 1.15
    assert abs(directions.mean()) < 3 * directions.std() / math.sqrt(len(directions))


def test_a_never_learned_set_is_matched() -> None:
    given = comparing(pooled(0, 100), pooled(100, 400))
    criterion = calibrate(given, Stop(tolerance=2.0))

    assert matched(criterion, check(criterion, given.model))


def test_a_memorised_set_is_not_and_looks_known() -> None:
    given = comparing(task(plain, forgotten=40).forget, pooled(0, 200))
    criterion = calibrate(given, Stop(tolerance=2.0))
    found = check(criterion, given.model)

    assert not matched(criterion, found)
    assert found.score > 3
    assert found.direction < -2


def test_an_unusually_wrong_set_is_not_either_and_stands_out_the_other_way() -> None:
    given = wrong(comparing(task(plain, forgotten=40).forget, pooled(0, 200)))
    criterion = calibrate(given, Stop(tolerance=2.0))
    found = check(criterion, given.model)

    assert not matched(criterion, found)
    assert found.score > 3
    assert found.direction > 2


def test_a_set_compared_with_itself_matches_perfectly() -> None:
    assert checked(comparing(pooled(0, 100), pooled(0, 100))).score < 1e-5


def test_matching_alone_does_not_count_where_the_utility_is_lost() -> None:
    criterion = calibrate(comparing(pooled(0, 100), pooled(100, 400)), Stop(tolerance=2.0, allowed_drop=1.0))

    assert matched(criterion, Check(score=1.9, direction=0.0, drop=1.0, held_out_losses=torch.zeros(1)))
    assert not matched(criterion, Check(score=1.9, direction=0.0, drop=1.1, held_out_losses=torch.zeros(1)))
    assert not matched(criterion, Check(score=2.1, direction=0.0, drop=0.0, held_out_losses=torch.zeros(1)))


def test_a_guide_attacks_score_is_one_more_signal() -> None:
    """An attack that sees what loss and entropy do not raises the mismatch."""
    given = comparing(pooled(0, 100), pooled(100, 400))
    marked = set(batched_answers(given.objective, given.model, given.forget.batch).losses.tolist())
    recognises = lambda found: torch.tensor([float(loss not in marked) for loss in found.losses.tolist()])  # noqa: E731
    criterion = calibrate(given, Stop(), guide_signals=[recognises])

    assert check(criterion, given.model).score > checked(given).score + 1


def test_an_objective_that_pre_processes_its_inputs_is_given_its_own_answers() -> None:
    """Its inputs are new tensors in each call, whose memory is that of another set's a moment before."""
    given = comparing(task(plain, forgotten=40).forget, pooled(0, 200))
    expected = checked(given)
    logits = OBJECTIVE.logits
    assert logits is not None
    given.objective = dataclasses.replace(
        OBJECTIVE,
        losses=lambda forward, batch: OBJECTIVE.losses(forward, batch._replace(inputs=batch.inputs * 1.0)),
        logits=lambda forward, inputs: logits(forward, inputs * 1.0),
    )
    found = checked(given)

    assert (found.score, found.direction) == (expected.score, expected.direction)
    assert found.direction < -2


def test_the_drop_is_the_accuracy_lost_beyond_one_standard_error() -> None:
    given = comparing(pooled(0, 100), pooled(100, 400))
    criterion = calibrate(given, Stop())
    assert check(criterion, given.model).drop == 0

    with torch.no_grad():
        given.model[-1].weight.zero_()
        given.model[-1].bias.copy_(torch.tensor([1.0, 0, 0, 0]))
        lost = criterion.original_merit[0] - 100 * (criterion.remain.targets == 0).float()
    found = check(criterion, given.model)

    assert found.drop == pytest.approx(float(lost.mean()) - float(lost.std(correction=0)) / math.sqrt(len(lost)))


def test_the_monitored_remaining_samples_are_not_those_that_a_method_draws_first() -> None:
    """LTU rehearses on the first share of a permutation by the task's seed; a loss on the others must be seen too."""
    given = comparing(pooled(0, 100), pooled(100, 400))
    given.remain = pooled(400, 3000)
    first = given.remain.draw(1300, torch.Generator().manual_seed(given.seed))
    rehearsed = {tuple(inputs.tolist()) for inputs in first.inputs}
    monitored = [tuple(inputs.tolist()) for inputs in calibrate(given, Stop()).remain.inputs]

    assert len(monitored) == 512
    assert abs(sum(inputs in rehearsed for inputs in monitored) / 512 - 0.5) < 0.1


def test_what_a_model_trained_on_less_data_is_expected_to_lose_is_no_drop() -> None:
    """Half of the data: an error 2^(1/3) times as large."""
    given = comparing(pooled(0, 100), pooled(100, 400))
    given.remain = pooled(400, 500)
    criterion = calibrate(given, Stop())
    error = 100 - float(criterion.original_merit[1].mean())

    assert criterion.expected_drop == pytest.approx(error * (2 ** (1 / 3) - 1), rel=1e-5)
    criterion = dataclasses.replace(
        criterion, remain=criterion.held_out, original_merit=(torch.zeros(300), criterion.original_merit[1])
    )
    model = worse(given)
    everything = check(dataclasses.replace(criterion, expected_drop=0.0), model).drop
    assert check(criterion, model).drop == pytest.approx(everything - criterion.expected_drop, abs=1e-4)


def worse(given: Task) -> nn.Module:
    """The model, which always answers 0."""
    made = copy.deepcopy(given.model)
    with torch.no_grad():
        made[-1].bias[0] += 1000
    return made


def whole_class() -> Task:
    """All training samples of class 2 are to be forgotten."""
    given = task(plain)
    together = joined(given.forget, given.remain)
    inside = together.targets == 2
    given.forget, given.remain = (together.take(mask.nonzero().flatten()) for mask in (inside, ~inside))
    return given


def without_class(given: Task) -> nn.Module:
    """The model, which never answers 2."""
    made = copy.deepcopy(given.model)
    with torch.no_grad():
        made[-1].bias[2] -= 1000
    return made


def test_a_fully_forgotten_class_is_to_be_answered_wrongly_and_its_held_out_data_do_not_count_as_utility() -> None:
    given = whole_class()
    criterion = calibrate(given, Stop())
    assert criterion.forgotten_classes is not None
    assert criterion.forgotten_classes.tolist() == [False, False, True, False]
    utility = torch.cat([criterion.held_out.targets, criterion.guide.targets])[criterion.utility]
    assert sorted(set(utility.tolist())) == [0, 1, 3]

    original, forgotten = check(criterion, given.model), check(criterion, without_class(given))
    assert original.direction < -3
    assert (forgotten.score, forgotten.drop) == (0, 0)
    assert matched(criterion, forgotten)


def test_a_class_of_which_a_tenth_remains_is_compared_with_held_out_data() -> None:
    given = whole_class()
    tenth = torch.arange(len(given.forget)) < len(given.forget) / 10
    remaining, given.forget = (given.forget.take(mask.nonzero().flatten()) for mask in (tenth, ~tenth))
    given.remain = joined(given.remain, remaining)
    criterion = calibrate(given, Stop())

    assert criterion.forgotten_classes is not None
    assert not criterion.forgotten_classes.any()
    assert not criterion.of_class.any()


def test_a_class_and_others_are_compared_each_with_its_own() -> None:
    given = whole_class()
    given.forget = joined(given.forget, given.remain.take(torch.arange(20)))
    given.remain = given.remain.take(torch.arange(20, len(given.remain)))
    criterion = calibrate(given, Stop())

    assert set(criterion.forget.targets[criterion.of_class].tolist()) == {2}
    assert int((~criterion.of_class).sum()) == 20
    assert float(criterion.weights[given.criterion.targets == 2].sum()) == 0
    assert 0 < check(criterion, without_class(given)).score < check(criterion, given.model).score


def test_a_whole_class_is_refused_where_nothing_says_how_its_samples_should_then_be_answered() -> None:
    given = whole_class()
    given.objective = dataclasses.replace(OBJECTIVE, logits=None)
    with pytest.raises(MethodRefused, match="forgotten as a whole"):
        calibrate(given, Stop())


def test_if_every_class_is_forgotten_there_is_no_utility_set_and_no_drop() -> None:
    given = whole_class()
    given.forget, given.remain = joined(given.forget, given.remain), given.forget.take(torch.arange(1))

    assert check(calibrate(given, Stop()), given.model).drop == 0


def test_the_held_out_set_is_weighted_to_the_forget_sets_mix_of_classes() -> None:
    forget = pooled(0, 100).take((pooled(0, 100).targets != 3).nonzero().flatten())
    held_out = pooled(100, 300)
    weights = matching_weights(forget, held_out, OBJECTIVE)

    assert float(weights.sum()) == pytest.approx(1)
    for label in range(CLASSES):
        share = float((forget.targets == label).float().mean())
        assert float(weights[held_out.targets == label].sum()) == pytest.approx(share, abs=1e-6)


def test_a_difference_of_classes_alone_is_not_taken_for_a_difference() -> None:
    """All of class 0, against a held-out set of every class, on a model that is right about class 0 alone."""
    zeros = (POOL.targets == 0).nonzero().flatten()
    given = comparing(
        POOL.take(zeros[:100]), POOL.take(torch.cat([zeros[100:300], (POOL.targets != 0).nonzero().flatten()[:400]]))
    )
    with torch.no_grad():
        given.model[-1].bias[0] += 8
    assert checked(given).score < 2.5

    unweighted = calibrate(given, Stop())
    unweighted = dataclasses.replace(unweighted, weights=torch.full_like(unweighted.weights, 1 / len(given.criterion)))
    assert check(unweighted, given.model).score > 5


def test_without_a_common_class_the_held_out_set_counts_evenly() -> None:
    zeros, ones = (POOL.take((POOL.targets == label).nonzero().flatten()) for label in (0, 1))
    weights = matching_weights(zeros, ones, OBJECTIVE)

    torch.testing.assert_close(weights, torch.full((len(ones),), 1 / len(ones)))


def test_thequantile_differences_are_binomial_standard_scores() -> None:
    generator = torch.Generator().manual_seed(0)
    forget, held_out = torch.randn(60, generator=generator) + 0.4, torch.randn(101, generator=generator)
    found = quantile_differences(forget, held_out, torch.full((101,), 1 / 101))

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
    weighted = quantile_differences(forget, held_out, times / times.sum())
    plainly = quantile_differences(forget, repeated, torch.full((len(repeated),), 1 / len(repeated)))
    # The same thresholds and shares; repeated samples carry less information than so many distinct ones.
    effective = float(times.sum()) ** 2 / float((times**2).sum())
    scale = math.sqrt((1 / 60 + 1 / len(repeated)) / (1 / 60 + 1 / effective))

    assert weighted == pytest.approx([value * scale for value in plainly], abs=1e-4)


def test_tied_values_are_no_difference() -> None:
    """Losses of a sure model are exactly 0 in float32, by the hundred."""
    values = torch.cat([torch.zeros(60), torch.linspace(0.1, 1, 40)])

    assert max(map(abs, quantile_differences(values, values, torch.full((100,), 0.01)))) < 0.1


def test_a_check_leaves_the_model_and_the_random_state_alone() -> None:
    given = comparing(pooled(0, 100), pooled(100, 400))
    before, random_state = state(given.model), torch.get_rng_state()
    checked(given)

    assert same(state(given.model), before)
    assert torch.equal(torch.get_rng_state(), random_state)


def test_without_classes_losses_alone_are_compared() -> None:
    given = comparing(task(plain, forgotten=40).forget, pooled(0, 200))
    given.objective = dataclasses.replace(OBJECTIVE, logits=None, classes=None)
    found = checked(given)
    assert found.direction < -2

    criterion = calibrate(given, Stop())
    worse = copy.deepcopy(given.model)
    nn.init.zeros_(worse[-1].weight)
    nn.init.zeros_(worse[-1].bias)
    assert check(criterion, worse).drop > 30


@pytest.mark.parametrize("seed", range(5))
def test_weighted_quantiles_are_numpys_by_the_inverted_distribution_function(seed: int) -> None:
    generator = np.random.default_rng(seed)
    values, weights, shares = generator.normal(size=40), generator.random(40), generator.random(7)
    found = weighted_quantiles(*map(torch.tensor, (values, weights / weights.sum(), shares)))

    assert found.numpy() == pytest.approx(np.quantile(values, shares, method="inverted_cdf", weights=weights))


def test_the_quantile_of_a_share_beyond_the_rounded_sum_of_the_weights_is_the_largest_value() -> None:
    assert weighted_quantiles(torch.tensor([3.0, 1.0]), torch.tensor([0.4, 0.5]), torch.tensor([1.0])).tolist() == [3.0]


def labelled(*targets: int) -> SampleSet:
    return SampleSet(
        ids=tuple(map(str, range(len(targets)))), inputs=torch.zeros(len(targets), 1), targets=torch.tensor(targets)
    )


def test_a_class_is_fully_forgotten_if_less_than_a_tenth_of_it_remains() -> None:
    forget = labelled(*[0] * 19, *[1] * 18, *[2] * 5)
    found = fully_forgotten_classes(forget, labelled(0, 1, 1, *[2] * 5), classes=4)

    assert found is not None
    assert found.tolist() == [True, False, False, False]
    assert in_classes(torch.tensor([0, 1, 0, 3]), found).tolist() == [True, False, True, False]


def test_without_classes_none_is_fully_forgotten() -> None:
    found = fully_forgotten_classes(labelled(0), labelled(1), classes=None)

    assert found is None
    assert in_classes(torch.tensor([0, 1]), found).tolist() == [False, False]
