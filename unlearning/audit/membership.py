"""Threshold attacks: can somebody who sees a model's outputs tell the forget set from data that it never saw?

The aim is an AUC of 0.5, from both sides. Above it forgotten samples still look like members. Below it they look less known than
data never seen, which gives them away as well.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from unlearning.audit.intervals import Floats, Interval, percentile, resamples, wilson
from unlearning.audit.signals import SignalsBySet
from unlearning.data.objectives import Objective
from unlearning.data.samples import SampleSet
from unlearning.specs.audit import AuditSpec, Thresholds

ROC_POINTS = 200
_MIX_LEVEL = 0.01
"""Level of the χ² test that says whether two class mixes differ."""
_MIN_FOR_BOOTSTRAP = 30
"""Samples. With fewer, a bootstrap interval may be too narrow (`_at_least_null_width`)."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Pairing:
    """Which forgotten and held-out samples are compared, and with what weights: the same for every model and attack of an audit.

    forget: (n,) and held_out: (m,) int64 positions. weights: (m,), of the held-out samples, to match the forget set's class mix.
    forget_counts: (b, n) and held_out_counts: (b, m), bootstrap weights. matched: whether the mix was matched by weights.
    unmatched: forgotten samples that are left out because no held-out sample has their class.
    """

    forget: NDArray[np.int64]
    held_out: NDArray[np.int64]
    weights: Floats
    forget_counts: Floats
    held_out_counts: Floats
    matched: bool
    unmatched: int

    @property
    def comparable(self) -> bool:
        """Whether any held-out sample has a class of the forget set. If none has, the comparison says little."""
        return self.matched or not self.unmatched

    @property
    def effective(self) -> float:
        """Kish's effective number of held-out samples, given the weights."""
        return float(self.weights.sum() ** 2 / (self.weights**2).sum())


@dataclass(frozen=True, kw_only=True, slots=True)
class Attack:
    """How well one threshold attack tells D_f from D_v.

    deciding: "auc" and "balanced_accuracy" at the confidence that decides verdicts. tpr_at_*: true positive rate at a false
    positive rate of 1 % and 0.1 %; None if there are too few held-out samples for that rate.
    """

    name: str
    auc: Interval
    deciding: Mapping[str, Interval]
    balanced_accuracy: Interval
    tpr_at_1_fpr: Interval | None
    tpr_at_01_fpr: Interval | None


@dataclass(frozen=True, kw_only=True, slots=True)
class RocCurve:
    """Rates from (0, 0) to (1, 1); fpr and tpr have the same length."""

    fpr: tuple[float, ...]
    tpr: tuple[float, ...]


def pair_sets(forget: SampleSet, held_out: SampleSet, *, objective: Objective, spec: AuditSpec, seed: int) -> Pairing:
    """Pair the two sets for all models of an audit (`pair`): by their classes, if the objective has classes."""
    targets = (matched_targets(samples, objective) for samples in (forget, held_out))
    rng = np.random.default_rng([seed, 2])
    return pair(*targets, max_samples=spec.membership_samples, replicates=spec.replicates, rng=rng)


def matched_targets(samples: SampleSet, objective: Objective) -> NDArray[np.int64]:
    """Return the classes by which samples are paired, (n,); 0 for all without classes."""
    if objective.classes is None:
        return np.zeros(len(samples), dtype=np.int64)
    classes: NDArray[np.int64] = samples.targets.cpu().numpy()
    return classes


def evaluate_attacks(signals: SignalsBySet, pairing: Pairing, *, spec: AuditSpec) -> dict[str, Attack]:
    """Evaluate every threshold attack on one model, and the one named "spread" (`spread_scores`); by name."""
    return {name: evaluate_attack(name, signals, pairing, spec=spec) for name in (*signals["forget"].attacks, "spread")}


def evaluate_attack(name: str, signals: SignalsBySet, pairing: Pairing, *, spec: AuditSpec) -> Attack:
    """Evaluate one threshold attack on one model, by its name."""
    scores = {s: signals[s].membership("margin" if name == "spread" else name) for s in signals}
    if name == "spread":
        scores = spread_scores(scores, pairing)
    return attack_by_scores(
        name,
        scores["forget"],
        scores["held_out"],
        pairing,
        threshold=member_threshold(scores["remain"], scores["test"]),
        spec=spec,
    )


def attack_by_reference(
    signals: SignalsBySet, losses: Mapping[str, Floats], pairing: Pairing, *, spec: AuditSpec
) -> Attack:
    """Evaluate the attack by how much smaller each sample's loss is than a reference's, which never saw it.

    (Carlini et al., USENIX Security 2021, §5.2; the log-likelihood ratio of Mireshghallah et al., EMNLP 2022.) losses: of the
    reference, nats, (n,) by set, "forget" and "held_out". The threshold of the balanced accuracy is a ratio of 1.
    """
    scores = {name: losses[name] - signals[name].loss for name in ("forget", "held_out")}
    return attack_by_scores(
        "reference",
        scores["forget"],
        scores["held_out"],
        pairing,
        threshold=0.0,
        spec=spec,
    )


def pair(
    forget: NDArray[np.int64],
    held_out: NDArray[np.int64],
    *,
    max_samples: int,
    replicates: int,
    rng: np.random.Generator,
) -> Pairing:
    """Pair two sets by their targets, (n,) and (m,) int64, using at most `max_samples` random samples of either.

    If a χ² test says that the class mixes differ (p < 0.01, e.g. if one class is forgotten), held-out samples are weighted to
    the forget set's mix. Otherwise they are not, because weights for chance differences would only cost precision.
    """
    first, second = _subset(len(forget), max_samples, rng), _subset(len(held_out), max_samples, rng)
    matched = class_mix_differs(forget[first], held_out[second])
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


def auc_half_width(n: int, m: float, *, confidence: float) -> float:
    """Compute half the interval of an AUC of 0.5 on n and m samples (Mann-Whitney variance under the null); at most 0.5."""
    return min(0.5, NormalDist().inv_cdf((1 + confidence) / 2) * math.sqrt((n + m + 1) / (12 * n * m)))


def membership_margin(pairing: Pairing, thresholds: Thresholds) -> float:
    """Compute the margin around 0.5 for sets of this size. It depends on the sizes alone, so it is fixed before any result."""
    width = auc_half_width(len(pairing.forget), pairing.effective, confidence=thresholds.confidence)
    wanted = thresholds.membership_margin_widths * width
    return min(thresholds.membership_margin, max(thresholds.membership_margin_least, wanted))


def membership_power(pairing: Pairing, thresholds: Thresholds) -> float:
    """Compute how likely, 0 to 1, an attack passes a model that never saw the samples: its AUC's interval is within the margin.

    By the normal approximation of the AUC under the null [ours]. That several attacks pass is less likely, so it is an upper bound.
    """
    normal, confidence = NormalDist(), thresholds.confidence
    width = auc_half_width(len(pairing.forget), pairing.effective, confidence=confidence)
    error = width / normal.inv_cdf((1 + confidence) / 2)
    return max(0.0, 2 * normal.cdf((membership_margin(pairing, thresholds) - width) / error) - 1)


def class_mix_differs(first: NDArray[np.int64], second: NDArray[np.int64]) -> bool:
    """Return whether the class mixes of two target vectors differ by more than chance: χ² test of homogeneity, p < 0.01."""
    classes = int(max(first.max(), second.max())) + 1
    table = np.stack([np.bincount(first, minlength=classes), np.bincount(second, minlength=classes)]).astype(float)
    table = table[:, table.sum(axis=0) > 0]
    if table.shape[1] < 2:
        return False
    # Here, because a process that only trains should not wait for it.
    from scipy.stats import chi2_contingency  # type: ignore[import-untyped]  # scipy ships no type information

    return bool(chi2_contingency(table, correction=False).pvalue < _MIX_LEVEL)


def attack_by_scores(
    name: str,
    forget: Floats,
    held_out: Floats,
    pairing: Pairing,
    *,
    threshold: float,
    spec: AuditSpec,
) -> Attack:
    """Evaluate an attack by its scores of all forgotten and all held-out samples, (n,) and (m,): higher means more like a member.

    threshold: for the balanced accuracy; `member_threshold` learns it from other data, as an attacker must. spec: of its intervals,
    those that are printed and those that decide.
    """
    confidence, deciding = spec.confidence, spec.thresholds.confidence
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
        return _at_least_null_width(percentile(point, aucs, confidence=level), n, m, confidence=level)

    def accuracy(level: float) -> Interval:
        return balanced_accuracy(
            wilson(hit * n, n, confidence=level), wilson(correct_rejection * m, m, confidence=level)
        )

    return Attack(
        name=name,
        auc=area(confidence),
        deciding={"auc": area(deciding), "balanced_accuracy": accuracy(deciding)},
        balanced_accuracy=accuracy(confidence),
        tpr_at_1_fpr=rate(0.01),
        tpr_at_01_fpr=rate(0.001),
    )


def auc(forget: Floats, held_out: Floats, forget_weights: Floats, held_out_weights: Floats) -> Floats:
    """Compute P(forget > held-out) + P(equal)/2 for each row of weights, (b,). Scores (n,), (m,); weights (b, n), (b, m)."""
    f, v = _by_score(forget, held_out, forget_weights, held_out_weights)
    below = np.cumsum(v, axis=1) - v / 2
    result: Floats = (f * below).sum(axis=1) / _positive(f.sum(axis=1) * v.sum(axis=1))
    return result


def balanced_accuracy(first: Interval, second: Interval) -> Interval:
    """Compute the mean of two independent shares, with the interval by Newcombe's square-and-add (Statistics in Medicine 1998)."""
    value = (first.value + second.value) / 2
    below = math.hypot(first.value - first.low, second.value - second.low) / 2
    above = math.hypot(first.high - first.value, second.high - second.value) / 2
    return Interval(value, value - below, value + above)


def tpr_at(forget: Floats, held_out: Floats, forget_weights: Floats, held_out_weights: Floats, *, fpr: float) -> Floats:
    """Compute the largest true positive rate at a false positive rate of at most `fpr`, for each row of weights, (b,)."""
    f, v = _by_score(forget, held_out, forget_weights, held_out_weights)
    above_f, above_v = np.cumsum(f[:, ::-1], axis=1), np.cumsum(v[:, ::-1], axis=1)
    allowed = above_v <= (fpr + 1e-12) * v.sum(axis=1, keepdims=True)
    reached: Floats = np.where(allowed, above_f, 0.0).max(axis=1) / _positive(f.sum(axis=1))
    return reached


def member_threshold(members: Floats, non_members: Floats) -> float:
    """Find the score that best separates known members from known non-members (Youden's J); the lowest among equals."""
    levels = np.unique(np.concatenate([members, non_members]))
    tpr = 1 - np.searchsorted(np.sort(members), levels, side="right") / len(members)
    fpr = 1 - np.searchsorted(np.sort(non_members), levels, side="right") / len(non_members)
    return float(levels[np.argmax(tpr - fpr)])


def spread_scores(scores: Mapping[str, Floats], pairing: Pairing) -> dict[str, Floats]:
    """Turn scores into how near each lies to the held-out median, on either side. scores: by set, including "held_out".

    If forgetting makes some samples look too well known and others too little, the AUC is 0.5. This attack detects it, and it
    detects members whose scores lie closer together than those of data never seen.
    """
    centre = np.median(scores["held_out"][pairing.held_out])
    return {name: -np.abs(values - centre) for name, values in scores.items()}


def roc_curve(forget: Floats, held_out: Floats, pairing: Pairing) -> RocCurve:
    """Compute an attack's ROC curve from its scores, thinned to about 200 points; up to 100 of them are at the low-FPR end."""
    f, v = _by_score(
        forget[pairing.forget], held_out[pairing.held_out], np.ones((1, len(pairing.forget))), pairing.weights[None, :]
    )
    tpr = np.concatenate([[0.0], np.cumsum(f[0, ::-1]) / f.sum()])
    fpr = np.concatenate([[0.0], np.cumsum(v[0, ::-1]) / v.sum()])
    early = np.flatnonzero(fpr <= 0.02)[: ROC_POINTS // 2]
    even = np.linspace(0, len(fpr) - 1, min(len(fpr), ROC_POINTS - len(early))).round().astype(np.int64)
    chosen = np.union1d(early, even)
    return RocCurve(fpr=tuple(fpr[chosen].clip(0, 1).tolist()), tpr=tuple(tpr[chosen].clip(0, 1).tolist()))


def _by_score(f: Floats, v: Floats, f_weights: Floats, v_weights: Floats) -> tuple[Floats, Floats]:
    """Sum the weights of equal scores, in ascending order of the scores: two arrays (b, distinct)."""
    levels, place = np.unique(np.concatenate([f, v]), return_inverse=True)
    f_place, v_place = place[: len(f)], place[len(f) :]
    return _gather(f_weights, f_place, len(levels)), _gather(v_weights, v_place, len(levels))


def _gather(weights: Floats, place: NDArray[np.int64], levels: int) -> Floats:
    out = np.zeros((len(weights), levels))
    order = np.argsort(place, kind="stable")
    starts = np.flatnonzero(np.diff(place[order], prepend=-1))
    out[:, place[order][starts]] = np.add.reduceat(weights[:, order], starts, axis=1)
    return out


def _at_least_null_width(interval: Interval, n: int, m: float, *, confidence: float) -> Interval:
    """Widen an interval on few samples to the width under the null: five samples on one side give equal bootstraps."""
    if min(n, m) >= _MIN_FOR_BOOTSTRAP:
        return interval
    half = auc_half_width(n, m, confidence=confidence)
    low, high = min(interval.low, interval.value - half), max(interval.high, interval.value + half)
    return Interval(interval.value, max(0.0, low), min(1.0, high))


def _positive(values: Floats) -> Floats:
    return np.where(values > 0, values, 1.0)


def _subset(n: int, size: int, rng: np.random.Generator) -> NDArray[np.int64]:
    return np.arange(n) if n <= size else np.sort(rng.permutation(n)[:size])
