"""Compare models: the unlearned with the original (was anything done, has it collapsed?), with a retrained one, and with chance."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from unlearning.audit.intervals import Floats, Interval
from unlearning.audit.signals import Signals, audit_copy, merit_of, observe
from unlearning.data.objectives import Objective
from unlearning.data.samples import SampleSet
from unlearning.sharding import gathered
from unlearning.specs.audit import Thresholds
from unlearning.stopping.criterion import expected_loss

_CHANCE_SAMPLES = 2000
_CHANCE_CONFIDENCE = 0.99
_MORE_RIGHT, _LESS_LOSS = 1 / 3, 0.1
"""What must be gained over a guess: this share of the way from its accuracy to 1, or this share of its loss [ours]."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Change:
    """How the unlearned model differs from the original.

    weight_distance_relative: ‖θ − θ_o‖ / ‖θ_o‖ of what is trained. prediction_change: mean total variation, 0 to 1, the larger of
    D_f and D_v. largest_class: largest share of held-out predictions in one class; None if the model decides nothing. finite:
    whether weights and outputs are finite numbers. no_op: whether weights or predictions hardly changed. collapsed: whether they
    are not finite, or too little is left of the merit over chance on the remaining set.
    """

    weight_distance_relative: float
    prediction_change: float
    largest_class: float | None
    finite: bool
    no_op: bool
    collapsed: bool


def measure_change(
    original: nn.Module,
    unlearned: nn.Module,
    *,
    before: Mapping[str, Signals],
    after: Mapping[str, Signals],
    thresholds: Thresholds,
) -> Change:
    """Compare the unlearned model with the original, by weights and by signals on "forget", "remain" and "held_out"."""
    distance = weight_distance(original, unlearned)
    moved = [total_variation(before[s].probabilities, after[s].probabilities) for s in ("forget", "held_out")]
    finite = math.isfinite(distance) and all(signals.finite for signals in after.values())
    decisions = after["held_out"].decisions
    return Change(
        weight_distance_relative=distance if math.isfinite(distance) else 0.0,
        prediction_change=max(moved),
        largest_class=None if decisions is None else float(np.bincount(decisions).max() / len(decisions)),
        finite=finite,
        no_op=finite and (distance < thresholds.no_op_weights or max(moved) < thresholds.no_op_predictions),
        collapsed=not finite or has_collapsed(before["remain"], after["remain"], share=thresholds.collapse_share),
    )


def utility_drop(
    before: Mapping[str, Signals],
    after: Mapping[str, Signals],
    *,
    counted: Mapping[str, NDArray[np.bool_]],
    share: float,
) -> float:
    """Compute the points of merit that a model lost, the larger of remaining data and of held-out with test data; at least 0.

    Each counts beyond one standard error of the paired difference, and data never seen also beyond what a model is expected to lose
    that learns from `share` of the data. counted: by set, (n,), which samples count: not those of fully forgotten classes.
    """
    drops, best = [], before["remain"].bounds[1]
    for names, expected in ((("remain",), False), (("held_out", "test"), True)):
        was, now = (
            np.concatenate([signals[name].merit[counted[name]] for name in names]) for signals in (before, after)
        )
        if len(was):
            lost = was - now
            less_data = expected_loss(best - float(was.mean()), share=share) if expected else 0.0
            drops.append(float(lost.mean() - lost.std() / math.sqrt(len(lost))) - less_data)
    return min(max(0.0, *drops), best - before["remain"].bounds[0]) if drops else 0.0


def has_collapsed(before: Signals, after: Signals, *, share: float) -> bool:
    """Return whether less than `share` is left of the merit beyond guessing, as of the commonest class."""
    chance = before.chance / 100
    gained = before.mean_merit - chance
    return gained > 0 and after.mean_merit - chance < share * gained


@dataclass(frozen=True, kw_only=True, slots=True)
class ChanceComparison:
    """What a model knows of data that it was trained on, beside a guess by how often each target occurs.

    merit: points, with its 99 % interval. chance: the merit of the guess, such as always the commonest class. best: the largest
        merit.
    loss: mean, nats, with its 99 % interval; infinite if an output is not finite. chance_loss: of the guess. samples: their number.
    """

    merit: Interval
    chance: float
    best: float
    loss: Interval
    chance_loss: float
    samples: int

    @property
    def better(self) -> bool:
        """Whether the model beats the guess by more than random weights usually do by luck, in merit or in loss.

        Either is enough: a sure model may have a large loss, and where nearly all data are of one class the accuracy says little.
        """
        enough = self.chance + _MORE_RIGHT * (self.best - self.chance)
        return math.isfinite(self.loss.value) and (
            self.merit.low > enough or self.loss.high < (1 - _LESS_LOSS) * self.chance_loss
        )


def compare_with_chance(
    model: nn.Module, train: SampleSet, *, objective: Objective, max_samples: int = _CHANCE_SAMPLES, seed: int = 0
) -> ChanceComparison:
    """Compare a model with guessing, on at most `max_samples` random samples of its training set, on the model's device.

    Untrained weights, and weights of a model with other targets, are not better than chance.
    """
    order = torch.randperm(len(train), generator=torch.Generator().manual_seed(seed))
    samples = train.take(order[:max_samples])
    signals = observe(audit_copy(model, samples), samples, objective=objective)
    n, loss = len(signals), signals.loss
    half = NormalDist().inv_cdf((1 + _CHANCE_CONFIDENCE) / 2) * float(loss.std()) / math.sqrt(n)
    mean = float(loss.mean()) if signals.finite else math.inf
    return ChanceComparison(
        merit=merit_of(signals, confidence=_CHANCE_CONFIDENCE).scaled(100),
        chance=signals.chance,
        best=signals.bounds[1],
        loss=Interval(mean, mean - half, mean + half),
        chance_loss=signals.chance_loss,
        samples=n,
    )


@torch.no_grad()
def weight_distance(first: nn.Module, second: nn.Module) -> float:
    """Compute ‖θ₂ − θ₁‖ / ‖θ₁‖ over the parameters that require a gradient, in float64.

    Beside a large frozen backbone any change of a head would seem to be none.
    """
    others, moved, norm = dict(second.named_parameters()), 0.0, 0.0
    for name, parameter in first.named_parameters():
        if parameter.requires_grad:
            before, after = (gathered(each).double().cpu() for each in (parameter, others[name]))
            moved += float((before - after).pow(2).sum())
            norm += float(before.pow(2).sum())
    return math.sqrt(moved / norm) if norm > 0 else math.sqrt(moved)


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """How far the unlearned model is from the retrained one.

    gaps: absolute differences of ua, ra, ta and mi, points. average_gap: their mean, as the papers print it.
    tow: "tug of war", Π over D_f, D_r, D_t of 1 − |difference of accuracy|; 1 is best (Zhao et al., NeurIPS 2024).
    """

    gaps: Mapping[str, float]
    average_gap: float
    tow: float


def compare_with_retrained(
    unlearned: Mapping[str, Signals],
    reference: Mapping[str, Signals],
    *,
    measures: Mapping[str, float],
    reference_measures: Mapping[str, float],
) -> Comparison:
    """Compare with a retrained model, by signals on "forget", "remain", "test", and by measures (percent, by name)."""
    gaps = {name: abs(measures[name] - reference_measures[name]) for name in measures}
    return Comparison(
        gaps=gaps,
        average_gap=float(np.mean(list(gaps.values()))),
        tow=tug_of_war(unlearned, reference),
    )


def privacy_leakage(auc: float, retrained: float) -> float:
    """Compute PrivLeak, percent: how much the complement of an attack's AUC differs from a retrained model's, in parts of that.

    0 is a model like the retrained one, -100 one of which the attack knows every forgotten sample, and a positive value one that
    knows them less than data never seen (MUSE, Shi et al., ICLR 2025, arXiv 2407.06460). auc: of scores that are higher for
    members; MUSE's are lower for them, so that its AUC is the complement of ours.
    """
    return 100 * ((1 - auc) - (1 - retrained)) / max(1 - retrained, 1e-10)


def tug_of_war(unlearned: Mapping[str, Signals], reference: Mapping[str, Signals]) -> float:
    """Compute Π over forget, remain and test of 1 − |accuracy − the reference's accuracy|, or of another merit."""
    sets = ("forget", "remain", "test")
    return float(np.prod([1 - abs(unlearned[s].mean_merit - reference[s].mean_merit) for s in sets]))


@dataclass(frozen=True, kw_only=True, slots=True)
class ClassAccuracy:
    """The accuracy on one class before and after, in percent."""

    label: str
    original: float
    unlearned: float


def per_class(original: Signals, unlearned: Signals) -> tuple[ClassAccuracy, ...]:
    """Accuracy on each class that occurs, before and after; empty without classes."""
    rows: list[ClassAccuracy] = []
    if original.correct is None or unlearned.correct is None:
        return ()
    for label in np.unique(original.targets):
        here = original.targets == label
        before, after = original.correct[here].mean(), unlearned.correct[here].mean()
        rows.append(ClassAccuracy(label=str(label), original=100 * float(before), unlearned=100 * float(after)))
    return tuple(rows)


def agreement(first: Signals, second: Signals) -> float | None:
    """Compute the share of samples, or of a sample's labels, on which both models decide alike; None if they decide nothing."""
    if first.decisions is None or second.decisions is None:
        return None
    return float((first.decisions == second.decisions).mean())


def jensen_shannon(first: Floats, second: Floats) -> float:
    """Compute the mean Jensen-Shannon divergence, nats (0 to log 2), of two sets of distributions, (n, classes).

    In log space: a probability that underflows to 0 adds 0, never NaN.
    """
    middle = (first + second) / 2
    return float(
        np.clip((_relative_entropy(first, middle) + _relative_entropy(second, middle)).mean() / 2, 0.0, np.log(2))
    )


def total_variation(first: Floats, second: Floats) -> float:
    """Compute the mean total variation distance (0 to 1) of two sets of distributions, (n, classes)."""
    return float(np.abs(first - second).sum(axis=1).mean() / 2)


def _relative_entropy(p: Floats, q: Floats) -> Floats:
    logs = np.log(p, out=np.zeros_like(p), where=p > 0) - np.log(q, out=np.zeros_like(q), where=q > 0)
    result: Floats = (p * logs).sum(axis=1)
    return result
