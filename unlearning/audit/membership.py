"""Threshold attacks: can somebody who sees the model's output tell the forget set from data it never saw?

An AUC of 0.5 is the aim, from both sides: above it forgotten samples still look like members, below it they look worse than
data never seen, which gives them away as well.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray
from scipy.special import chdtrc  # type: ignore[import-untyped]  # scipy ships no type information

from unlearning.audit.intervals import Floats, Interval, percentile, resamples, wilson
from unlearning.specs.audit import Thresholds

ROC_POINTS = 200
MIX_LEVEL = 0.01
FEW = 30


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Pairing:
    """Which forgotten and which held-out samples are compared, and with what weight, the same for every model and attack.

    forget: (n,) and held_out: (m,) int64 indexes. weights: (m,), what each held-out sample counts, so that the class mix is
    that of the forget set. forget_counts: (b, n) and held_out_counts: (b, m), bootstrap weights. matched: whether the mix
    was made alike. unmatched: forgotten samples left out because no held-out sample has their class.
    """

    forget: NDArray[np.int64]
    held_out: NDArray[np.int64]
    weights: Floats
    forget_counts: Floats
    held_out_counts: Floats
    matched: bool
    unmatched: int

    @property
    def effective(self) -> float:
        """Kish's effective number of held-out samples under the weights."""
        return float(self.weights.sum() ** 2 / (self.weights**2).sum())


@dataclass(frozen=True, kw_only=True, slots=True)
class Attack:
    """How well one threshold attack tells D_f from D_v. tpr_at_*: None with too few held-out samples for that rate.

    deciding: "auc" and "balanced_accuracy" at the confidence that decides verdicts.
    """

    name: str
    auc: Interval
    deciding: Mapping[str, Interval]
    balanced_accuracy: Interval
    tpr_at_1_fpr: Interval | None
    tpr_at_01_fpr: Interval | None


def pair(
    forget: NDArray[np.int64], held_out: NDArray[np.int64], *, most: int, replicates: int, rng: np.random.Generator
) -> Pairing:
    """Pair the two sets by their targets, (n,) and (m,) int64, looking at no more than `most` of either.

    Held-out samples are weighted to the forget set's class mix where a χ² test says that the mixes differ (p < 0.01, e.g. one
    class forgotten); weighting a mix that differs by chance alone would only cost precision.
    """
    first, second = _subset(len(forget), most, rng), _subset(len(held_out), most, rng)
    matched = mix_differs(forget[first], held_out[second])
    weights = np.ones(len(second))
    unmatched = 0
    if matched:
        classes = int(max(forget.max(), held_out.max())) + 1
        f, v = np.bincount(forget[first], minlength=classes), np.bincount(held_out[second], minlength=classes)
        share = np.divide(f, v, out=np.zeros(classes), where=v > 0)
        weights = share[held_out[second]]
        present = v[forget[first]] > 0
        unmatched = int((~present).sum())
        if unmatched == len(first):
            matched, weights = False, np.ones(len(second))
        else:
            first, second, weights = first[present], second[weights > 0], weights[weights > 0]
    return Pairing(
        forget=first,
        held_out=second,
        weights=weights,
        forget_counts=resamples(len(first), replicates=replicates, rng=rng),
        held_out_counts=resamples(len(second), replicates=replicates, rng=rng),
        matched=matched,
        unmatched=unmatched,
    )


def half_width(n: int, m: float, *, confidence: float) -> float:
    """Half the interval of an AUC of 0.5 on n and m samples (Mann-Whitney's variance under the null); at most 0.5."""
    return min(0.5, NormalDist().inv_cdf((1 + confidence) / 2) * math.sqrt((n + m + 1) / (12 * n * m)))


def margin(pairing: Pairing, thresholds: Thresholds) -> float:
    """The margin around 0.5 for sets of this size: fixed by the sizes alone, before any model is looked at."""
    width = half_width(len(pairing.forget), pairing.effective, confidence=thresholds.confidence)
    wanted = thresholds.membership_margin_widths * width
    return min(thresholds.membership_margin, max(thresholds.membership_margin_least, wanted))


def mix_differs(first: NDArray[np.int64], second: NDArray[np.int64]) -> bool:
    """Whether the class mixes of two target vectors differ by more than chance: χ² of homogeneity, p < 0.01."""
    classes = int(max(first.max(), second.max())) + 1
    table = np.stack([np.bincount(first, minlength=classes), np.bincount(second, minlength=classes)]).astype(float)
    table = table[:, table.sum(axis=0) > 0]
    if table.shape[1] < 2:
        return False
    expected = table.sum(axis=1, keepdims=True) * table.sum(axis=0) / table.sum()
    statistic = ((table - expected) ** 2 / expected).sum()
    return bool(chdtrc(table.shape[1] - 1, statistic) < MIX_LEVEL)


def attack(
    name: str,
    forget: Floats,
    held_out: Floats,
    pairing: Pairing,
    *,
    threshold: float,
    confidence: float,
    deciding: float,
) -> Attack:
    """One attack from the scores of all forgotten and all held-out samples, (n,) and (m,): higher means more like a member.

    threshold: what the balanced accuracy is taken at; `member_threshold` learns it from other data, as an attacker must.
    """
    f, v = forget[pairing.forget], held_out[pairing.held_out]
    ones = np.ones((1, len(f))), pairing.weights[None, :]
    drawn = pairing.forget_counts, pairing.held_out_counts * pairing.weights
    aucs, n, m = auc(f, v, *drawn), len(f), pairing.effective
    point = float(auc(f, v, *ones)[0])
    hit = float((f > threshold).mean())
    correct_rejection = float(pairing.weights @ (v <= threshold) / pairing.weights.sum())

    def rate(fpr: float) -> Interval | None:
        if m < 10 / fpr:
            return None
        value = float(tpr_at(f, v, *ones, fpr=fpr)[0])
        return percentile(value, tpr_at(f, v, *drawn, fpr=fpr), confidence=confidence)

    def area(level: float) -> Interval:
        return _not_narrower(percentile(point, aucs, confidence=level), n, m, confidence=level)

    def accuracy(level: float) -> Interval:
        return balanced(wilson(hit * n, n, confidence=level), wilson(correct_rejection * m, m, confidence=level))

    return Attack(
        name=name,
        auc=area(confidence),
        deciding={"auc": area(deciding), "balanced_accuracy": accuracy(deciding)},
        balanced_accuracy=accuracy(confidence),
        tpr_at_1_fpr=rate(0.01),
        tpr_at_01_fpr=rate(0.001),
    )


def auc(forget: Floats, held_out: Floats, forget_weights: Floats, held_out_weights: Floats) -> Floats:
    """P(forget > held-out) + P(equal)/2 for each row of weights, (b,). Scores (n,), (m,); weights (b, n), (b, m)."""
    f, v = _by_score(forget, held_out, forget_weights, held_out_weights)
    below = np.cumsum(v, axis=1) - v / 2
    result: Floats = (f * below).sum(axis=1) / _positive(f.sum(axis=1) * v.sum(axis=1))
    return result


def balanced(first: Interval, second: Interval) -> Interval:
    """The mean of two independent shares; the interval by Newcombe's square-and-add (Statistics in Medicine 1998)."""
    value = (first.value + second.value) / 2
    below = math.hypot(first.value - first.low, second.value - second.low) / 2
    above = math.hypot(first.high - first.value, second.high - second.value) / 2
    return Interval(value, value - below, value + above)


def tpr_at(forget: Floats, held_out: Floats, forget_weights: Floats, held_out_weights: Floats, *, fpr: float) -> Floats:
    """The greatest true positive rate at a false positive rate of at most `fpr`, for each row of weights, (b,)."""
    f, v = _by_score(forget, held_out, forget_weights, held_out_weights)
    above_f, above_v = np.cumsum(f[:, ::-1], axis=1), np.cumsum(v[:, ::-1], axis=1)
    allowed = above_v <= (fpr + 1e-12) * v.sum(axis=1, keepdims=True)
    reached: Floats = np.where(allowed, above_f, 0.0).max(axis=1) / _positive(f.sum(axis=1))
    return reached


def member_threshold(members: Floats, non_members: Floats) -> float:
    """The score that best separates known members from known non-members (Youden's J), the lowest of equals."""
    levels = np.unique(np.concatenate([members, non_members]))
    tpr = 1 - np.searchsorted(np.sort(members), levels, side="right") / len(members)
    fpr = 1 - np.searchsorted(np.sort(non_members), levels, side="right") / len(non_members)
    return float(levels[np.argmax(tpr - fpr)])


def spread_scores(scores: Mapping[str, Floats], pairing: Pairing) -> dict[str, Floats]:
    """How near each score lies to the held-out median, from either side: scores by set, with "held_out" among them.

    Forgetting that makes some samples too good and others too bad has an AUC of 0.5; this sees it, and it sees members whose
    scores lie closer together than those of data never seen.
    """
    centre = np.median(scores["held_out"][pairing.held_out])
    return {name: -np.abs(values - centre) for name, values in scores.items()}


@dataclass(frozen=True, kw_only=True, slots=True)
class RocCurve:
    """Rates from (0, 0) to (1, 1); fpr and tpr have the same length."""

    fpr: tuple[float, ...]
    tpr: tuple[float, ...]


def roc(forget: Floats, held_out: Floats, pairing: Pairing) -> RocCurve:
    """The ROC curve of an attack from its scores, thinned to about 200 points; the low-FPR end keeps all of its own."""
    f, v = _by_score(
        forget[pairing.forget], held_out[pairing.held_out], np.ones((1, len(pairing.forget))), pairing.weights[None, :]
    )
    tpr = np.concatenate([[0.0], np.cumsum(f[0, ::-1]) / f.sum()])
    fpr = np.concatenate([[0.0], np.cumsum(v[0, ::-1]) / v.sum()])
    early = np.flatnonzero(fpr <= 0.02)[: ROC_POINTS // 2]
    even = np.linspace(0, len(fpr) - 1, min(len(fpr), ROC_POINTS - len(early))).round().astype(np.int64)
    kept = np.union1d(early, even)
    return RocCurve(fpr=tuple(fpr[kept].clip(0, 1).tolist()), tpr=tuple(tpr[kept].clip(0, 1).tolist()))


def _by_score(f: Floats, v: Floats, f_weights: Floats, v_weights: Floats) -> tuple[Floats, Floats]:
    """The weights gathered by distinct score, ascending: two arrays (b, distinct)."""
    levels, place = np.unique(np.concatenate([f, v]), return_inverse=True)
    f_place, v_place = place[: len(f)], place[len(f) :]
    return _gather(f_weights, f_place, len(levels)), _gather(v_weights, v_place, len(levels))


def _gather(weights: Floats, place: NDArray[np.int64], levels: int) -> Floats:
    out = np.zeros((len(weights), levels))
    order = np.argsort(place, kind="stable")
    starts = np.flatnonzero(np.diff(place[order], prepend=-1))
    out[:, place[order][starts]] = np.add.reduceat(weights[:, order], starts, axis=1)
    return out


def _not_narrower(found: Interval, n: int, m: float, *, confidence: float) -> Interval:
    """Five samples that all lie on one side are five equal bootstraps: with few, at least the width under the null is kept."""
    if min(n, m) >= FEW:
        return found
    half = half_width(n, m, confidence=confidence)
    low, high = min(found.low, found.value - half), max(found.high, found.value + half)
    return Interval(found.value, max(0.0, low), min(1.0, high))


def _positive(values: Floats) -> Floats:
    return np.where(values > 0, values, 1.0)


def _subset(n: int, most: int, rng: np.random.Generator) -> NDArray[np.int64]:
    return np.arange(n) if n <= most else np.sort(rng.permutation(n)[:most])
