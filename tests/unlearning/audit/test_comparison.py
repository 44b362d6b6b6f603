import copy
import dataclasses
import math

import numpy as np
import pytest
import torch
from scipy.spatial.distance import jensenshannon
from sklearn.metrics import roc_auc_score
from torch import nn
from torch.nn import functional

from tests.unlearning.kinds import OBJECTIVES, samples
from tests.unlearning.small import OBJECTIVE, plain, task
from unlearning.audit.comparison import (
    ClassAccuracy,
    agreement,
    compare_with_chance,
    compare_with_retrained,
    has_collapsed,
    jensen_shannon,
    measure_change,
    per_class,
    privacy_leakage,
    total_variation,
    tug_of_war,
    utility_drop,
    weight_distance,
)
from unlearning.audit.signals import Signals, audit_copy, merit_of, observe, signals
from unlearning.data.objectives import causal_language_model, classification, regression
from unlearning.data.objectives.objective import fitted
from unlearning.data.samples import SampleSet, joined
from unlearning.methods.registry import unlearn
from unlearning.specs import SSD, FineTune, Spec
from unlearning.specs.audit import Thresholds
from unlearning.specs.training import Recipe
from unlearning.steps import run_to_completion
from unlearning.training.loop import fit, fresh


def seen(right: float, *, scale: float = 4.0, n: int = 1000) -> Signals:
    """A model that is right on the first share of balanced samples, and says class 0 elsewhere."""
    targets = np.arange(n) % 4
    predicted = np.where(np.arange(n) < right * n, targets, 0)
    return signals(scale * np.eye(4)[predicted], targets)


SAME = {name: seen(0.9) for name in ("forget", "remain", "held_out")}


def moved(by: float) -> tuple[nn.Module, nn.Module]:
    model = nn.Linear(3, 2)
    other = copy.deepcopy(model)
    with torch.no_grad():
        other.weight += by
    return model, other


def test_privacy_leakage_is_that_of_muse_whose_attack_has_the_other_sign() -> None:
    """(AUC(f_unlearn) − AUC(f_retrain)) / AUC(f_retrain), with the AUC of data never seen against forgotten ones, whose mean
    log-probability of the least likely tokens is higher (Shi et al., ICLR 2025)."""
    rng = np.random.default_rng(0)
    labels, unseen = np.repeat([1, 0], [40, 60]), rng.normal(0, 1, 60)

    def leakage(shift: float) -> tuple[float, float]:
        model, retrained = (np.concatenate([rng.normal(by, 1, 40), unseen]) for by in (shift, 0.1))
        muse = [roc_auc_score(1 - labels, scores) for scores in (model, retrained)]
        ours = [roc_auc_score(labels, scores) for scores in (model, retrained)]
        return privacy_leakage(*ours), 100 * (muse[0] - muse[1]) / muse[1]

    ours, muse = zip(*(leakage(shift) for shift in (1.0, -1.0)), strict=True)
    assert ours == pytest.approx(muse)
    assert ours[0] < -20 < 20 < ours[1]
    assert privacy_leakage(1.0, 0.5) == -100
    assert privacy_leakage(0.5, 0.5) == 0
    assert np.isfinite(privacy_leakage(0.5, 1.0))


def test_the_weight_distance_is_relative_to_the_original() -> None:
    first, second = moved(0.5)
    norm = math.sqrt(sum(float(p.detach().double().pow(2).sum()) for p in first.parameters()))
    assert math.isclose(weight_distance(first, second), math.sqrt(6 * 0.25) / norm, rel_tol=1e-5)


def test_a_frozen_backbone_does_not_hide_a_change() -> None:
    """Its norm is a thousand times that of the layer that moved."""
    first, second = moved(0.5)
    backbone = nn.Linear(300, 300).requires_grad_(False)
    whole = [nn.Sequential(backbone, model) for model in (first, second)]

    assert weight_distance(*whole) == weight_distance(first, second)
    assert measure_change(*whole, before=SAME, after=SAME, thresholds=Thresholds()).weight_distance_relative > 0.1


def test_a_model_that_did_not_move_is_a_no_op_and_one_that_did_is_not() -> None:
    same = {"forget": seen(0.9), "remain": seen(0.9), "held_out": seen(0.9)}
    other = {"forget": seen(0.5), "remain": seen(0.9), "held_out": seen(0.9)}
    assert measure_change(*moved(0.0), before=same, after=same, thresholds=Thresholds()).no_op
    # The weights moved but nothing they say did, as with a dampening that is too weak.
    assert measure_change(*moved(0.5), before=same, after=same, thresholds=Thresholds()).no_op
    assert not measure_change(*moved(0.5), before=same, after=other, thresholds=Thresholds()).no_op


def test_a_model_that_guesses_has_collapsed_and_one_that_lost_a_little_has_not() -> None:
    assert has_collapsed(seen(1.0), seen(0.0), share=0.5)
    assert not has_collapsed(seen(1.0), seen(0.9), share=0.5)


def test_weights_that_are_no_numbers_are_a_collapse_and_make_no_infinity() -> None:
    before = {"forget": seen(0.9), "remain": seen(0.9), "held_out": seen(0.9)}
    found = measure_change(*moved(math.inf), before=before, after=before, thresholds=Thresholds())
    assert found.collapsed
    assert not found.no_op
    assert math.isfinite(found.weight_distance_relative)


@pytest.mark.parametrize(
    ("spec", "found"),
    [
        (SSD(selection=1e6), "no_op"),
        (SSD(selection=0.01, dampening=0.001), "collapsed"),
        (FineTune(epochs=30, learning_rate=100.0), "collapsed"),
    ],
)
def test_a_method_that_did_nothing_or_too_much_is_detected(spec: Spec, found: str) -> None:
    """SSD's published constant dampens nothing of a random forget set, and a smaller one destroys the model."""
    given, original = task(plain), task(plain).model
    run_to_completion(unlearn(spec, given))
    sets = {"forget": given.forget, "remain": given.remain, "held_out": given.criterion}
    before, after = (
        {
            name: observe(audit_copy(model, part), part, objective=OBJECTIVE, probabilities=True)
            for name, part in sets.items()
        }
        for model in (original, given.model)
    )
    change = measure_change(original, given.model, before=before, after=after, thresholds=Thresholds())

    assert (change.no_op, change.collapsed) == (found == "no_op", found == "collapsed")


def test_a_trained_model_is_better_than_chance_and_an_untrained_or_mislabelled_one_is_not() -> None:
    given = task(plain)
    train = joined(given.forget, given.remain)
    other = SampleSet(ids=train.ids, inputs=train.inputs, targets=train.targets.roll(1))
    broken = copy.deepcopy(given.model)
    next(broken.parameters()).data.fill_(math.nan)

    trained = compare_with_chance(given.model, train, objective=OBJECTIVE)
    assert trained.better
    assert trained.samples == len(train)
    assert trained.chance == pytest.approx(100 * float(train.targets.bincount().max()) / len(train))
    assert not compare_with_chance(plain(), train, objective=OBJECTIVE).better
    assert not compare_with_chance(given.model, other, objective=OBJECTIVE).better
    assert not compare_with_chance(broken, train, objective=OBJECTIVE).better


@pytest.mark.parametrize(("scale", "better"), [(0.0, False), (1.5, True)])
def test_among_data_nearly_all_of_one_class_the_loss_tells_a_model_from_chance(scale: float, better: bool) -> None:
    """Both always say class 0; the second one gives the rare class a higher probability where it occurs."""
    targets = (torch.arange(4000) % 20 == 0).long()
    train = SampleSet(ids=tuple(map(str, range(4000))), inputs=targets[:, None].float(), targets=targets)
    model = nn.Linear(1, 2)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[0.0], [scale]]))
        model.bias.copy_(torch.tensor([0.95, 0.05]).log())
    found = compare_with_chance(model, train, objective=classification(2))

    assert found.merit.value == pytest.approx(found.chance, abs=2)
    assert found.better is better


def correct_on(right: int, n: int = 10) -> Signals:
    targets = np.zeros(n, dtype=np.int64)
    return signals(np.where(np.arange(n)[:, None] < right, [[3.0, 0.0]], [[0.0, 3.0]]), targets)


def test_tug_of_war_multiplies_what_is_left() -> None:
    first = {"forget": correct_on(8), "remain": correct_on(10), "test": correct_on(9)}
    second = {"forget": correct_on(6), "remain": correct_on(10), "test": correct_on(8)}
    assert tug_of_war(first, second) == pytest.approx(0.8 * 1.0 * 0.9)


def test_a_model_has_no_gap_to_itself() -> None:
    sets = {"forget": correct_on(8), "remain": correct_on(10), "test": correct_on(9)}
    table = {"ua": 20.0, "ra": 100.0, "ta": 90.0, "mi": 40.0}
    found = compare_with_retrained(sets, sets, measures=table, reference_measures=table)
    assert (found.average_gap, found.tow) == (0, 1)


def test_the_average_gap_is_over_the_four_measures() -> None:
    sets = {"forget": correct_on(8), "remain": correct_on(10), "test": correct_on(9)}
    other = {"forget": correct_on(6), "remain": correct_on(10), "test": correct_on(9)}
    found = compare_with_retrained(
        sets,
        other,
        measures={"ua": 20.0, "ra": 100.0, "ta": 90.0, "mi": 40.0},
        reference_measures={"ua": 40.0, "ra": 99.0, "ta": 90.0, "mi": 43.0},
    )
    assert found.average_gap == pytest.approx((20 + 1 + 0 + 3) / 4)


def test_the_divergence_is_scipys_and_finite_for_separated_margins() -> None:
    rng = np.random.default_rng(0)
    targets = np.zeros(20, dtype=np.int64)
    # Logits of 800 underflow to a probability of 0.
    first, second = (signals(rng.choice([0.0, 3.0, 800.0], (20, 5)), targets).probabilities for _ in range(2))
    assert jensen_shannon(first, second) == pytest.approx(np.mean(jensenshannon(first, second, axis=1) ** 2))


def distributions(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).dirichlet(np.ones(5), 40)


def test_jensen_shannon_is_the_square_of_scipy_s_distance() -> None:
    p, q = distributions(0), distributions(1)
    assert jensen_shannon(p, q) == pytest.approx(np.mean(jensenshannon(p, q, axis=1) ** 2))


def test_jensen_shannon_is_finite_for_probabilities_of_zero() -> None:
    assert jensen_shannon(np.array([[1.0, 0.0]]), np.array([[0.0, 1.0]])) == pytest.approx(np.log(2))
    assert jensen_shannon(np.array([[1.0, 0.0, 0.0]]), np.array([[1.0, 0.0, 0.0]])) == 0
    assert np.isfinite(jensen_shannon(np.array([[1.0, 5e-324]]), np.array([[1.0, 0.0]])))


def test_total_variation_is_the_most_that_any_event_differs() -> None:
    p, q = np.array([[0.5, 0.3, 0.2]]), np.array([[0.2, 0.3, 0.5]])
    assert total_variation(p, q) == pytest.approx(0.3)


def test_accuracy_and_agreement_count_predictions() -> None:
    targets = np.array([0, 0, 1, 1])
    first = signals(np.array([[2.0, 0], [0, 2], [0, 2], [0, 2]]), targets)
    second = signals(np.array([[2.0, 0], [2, 0], [0, 2], [2, 0]]), targets)
    assert merit_of(first).value == 0.75
    assert agreement(first, second) == 0.5
    assert per_class(first, second) == (
        ClassAccuracy(label="0", original=50.0, unlearned=100.0),
        ClassAccuracy(label="1", original=100.0, unlearned=50.0),
    )


def everything(signals: dict[str, Signals]) -> dict[str, np.ndarray]:
    return {name: np.ones(len(each), bool) for name, each in signals.items()}


def drop(before: float, after: float, *, remain: tuple[float, float] = (1.0, 1.0), share: float = 1.0) -> float:
    was = {"remain": seen(remain[0]), "held_out": seen(before), "test": seen(before)}
    now = {"remain": seen(remain[1]), "held_out": seen(after), "test": seen(after)}
    return utility_drop(was, now, counted=everything(was), share=share)


def test_utility_is_lost_beyond_chance_and_beyond_what_less_data_explains() -> None:
    """From 92.5 to 85 % correct (a quarter of the others are of class 0): half the data explain 7.5 points times 2^(1/3) − 1."""
    assert 6.5 < drop(0.9, 0.8) < 7.5
    assert math.isclose(drop(0.9, 0.8) - drop(0.9, 0.8, share=0.5), 7.5 * (2 ** (1 / 3) - 1), rel_tol=0.05)
    assert drop(0.8, 0.8) == drop(0.8, 0.9) == 0.0
    assert 25 < drop(0.9, 0.9, remain=(0.987, 0.626), share=0.5) < 28  # remaining data have no such excuse


def test_utility_does_not_count_classes_that_are_forgotten_as_a_whole() -> None:
    was, now = ({name: seen(right) for name in ("remain", "held_out", "test")} for right in (1.0, 0.75))
    wrong = {name: np.arange(1000) < 750 for name in was}
    assert utility_drop(was, now, counted=wrong, share=1.0) == 0.0
    assert utility_drop(was, now, counted={name: np.zeros(1000, bool) for name in was}, share=1.0) == 0.0


@pytest.mark.parametrize("kind", ["multi-label", "regression", "an own objective", "losses alone"])
def test_a_trained_model_is_distinguished_from_chance_whatever_it_is_trained_for(kind: str) -> None:
    """Chance is to say the training mean, or each label's share; without predictions, what other samples' targets would give."""
    given = OBJECTIVES[kind]
    train = samples(given, 300, name="train", seed=1)
    objective = fitted(given.objective, train.targets)
    trained = fit(given.build, train, Recipe(epochs=30, batch_size=32, learning_rate=0.1), objective=objective, seed=0)
    shuffled = train.convert_targets(
        lambda targets: targets[torch.randperm(300, generator=torch.Generator().manual_seed(1))]
    )
    assert compare_with_chance(trained.eval(), train, objective=objective).better
    assert not compare_with_chance(fresh(given.build, seed=3), train, objective=objective).better
    assert not compare_with_chance(trained.eval(), shuffled, objective=objective).better
    for p in trained.parameters():
        p.data.fill_(math.nan)
    assert not compare_with_chance(trained, train, objective=objective).better


def test_padding_does_not_hide_how_far_two_language_models_are_apart() -> None:
    """A longer padding would make any change look like none. Prompts, which the loss does not count, do not either."""
    objective = causal_language_model(50, padding=0)
    models = [fresh(lambda: nn.Sequential(nn.Embedding(50, 16), nn.Linear(16, 50)), seed=seed) for seed in (0, 1)]
    texts = torch.randint(1, 50, (40, 20), generator=torch.Generator().manual_seed(0))

    def change(padding: int, prompt: int = 0) -> tuple[float, float]:
        tokens = functional.pad(texts, (prompt, padding), value=0)
        tokens[:, :prompt] = 7
        labels = objective.convert_targets(tokens, name="forget").index_fill(1, torch.arange(prompt), -100)
        given = SampleSet(ids=tuple(map(str, range(40))), inputs=tokens, targets=labels)
        found = [observe(model, given, objective=objective, probabilities=True).probabilities for model in models]
        return total_variation(*found), jensen_shannon(*found)

    assert change(0)[0] > 0.01
    assert change(200) == pytest.approx(change(0))
    assert change(0, prompt=40) == pytest.approx(change(0, prompt=2))


def test_a_regression_that_says_the_mean_has_collapsed() -> None:
    targets = torch.arange(100.0)[:, None]
    train = SampleSet(ids=tuple(map(str, range(100))), inputs=targets, targets=targets)
    objective = fitted(regression(), targets)
    knows, guesses = (
        observe(nn.Identity(), part, objective=objective, probabilities=True)
        for part in (train, dataclasses.replace(train, inputs=torch.full_like(targets, 49.5)))
    )
    assert not has_collapsed(knows, knows, share=0.5)
    assert has_collapsed(knows, guesses, share=0.5)
    assert guesses.mean_merit == pytest.approx(0, abs=1e-6)
    assert total_variation(knows.probabilities, guesses.probabilities) > 0.3
    assert agreement(knows, guesses) is None
