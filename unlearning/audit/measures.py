"""MI as the papers print it: the share of D_f that a support-vector attack calls non-member."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from sklearn.svm import SVC
from torch import nn

from unlearning.audit.intervals import Floats, Interval, wilson
from unlearning.audit.membership import Attack, Pairing, attack, member_threshold, pair, spread_scores
from unlearning.audit.signals import ATTACKS, Signals, frozen, observe
from unlearning.data.objectives import Objective
from unlearning.data.samples import SampleSet
from unlearning.specs.audit import AuditSpec

Mode = Literal["salun", "corrected"]


def paper_mi(
    *,
    remain: Signals,
    test: Signals,
    forget: Signals,
    mode: Mode,
    seeds: int = 3,
    most: int = 2000,
    seed: int = 0,
    confidence: float = 0.95,
) -> Interval:
    """The share, 0 to 1, of D_f called non-member by an RBF support-vector classifier (C = 3, gamma "auto") on p_y.

    "salun": members are the first |D_t| of D_r in their order, once, unscaled, as in SalUn's and LTU's evaluation.
    "corrected": members are drawn from D_r with D_t's class mix, as many as non-members; p_y standardised; the mean of `seeds`
    draws. Both look at no more than `most` of D_t, since the fit's time grows with the square. The interval is Wilson's over D_f.
    """
    if mode == "salun":
        n = min(len(remain), len(test), most)
        share = _non_members(remain.confidence[:n], test.confidence[: min(len(test), most)], forget.confidence)
    else:
        shares = [
            _corrected(remain, test, forget, most=most, rng=np.random.default_rng([seed, draw]))
            for draw in range(seeds)
        ]
        share = float(np.mean(shares))
    return wilson(share * len(forget), len(forget), confidence=confidence)


def _corrected(remain: Signals, test: Signals, forget: Signals, *, most: int, rng: np.random.Generator) -> float:
    members, non_members = [], []
    outside = rng.permutation(len(test))[:most]
    for label in np.unique(test.targets[outside]):
        here = outside[test.targets[outside] == label]
        pool = rng.permutation(np.flatnonzero(remain.targets == label))
        n = min(len(here), len(pool))
        members.append(pool[:n])
        non_members.append(here[:n])
    inside, outside = np.concatenate(members), np.concatenate(non_members)
    if not len(inside):
        return 0.0
    known = np.concatenate([remain.confidence[inside], test.confidence[outside]])
    centre, scale = known.mean(), known.std() or 1.0
    return _non_members(
        (remain.confidence[inside] - centre) / scale,
        (test.confidence[outside] - centre) / scale,
        (forget.confidence - centre) / scale,
    )


def _non_members(members: Floats, non_members: Floats, asked: Floats) -> float:
    # Without a seed of its own, fit() draws one from numpy's global state, which is the caller's.
    attack = SVC(C=3.0, gamma="auto", kernel="rbf", random_state=0)
    known: Floats = np.concatenate([members, non_members])[:, None]
    labels: NDArray[np.int64] = np.repeat([1, 0], [len(members), len(non_members)])
    attack.fit(known, labels)
    return float(1 - attack.predict(asked[:, None]).mean())


def accuracy(signals: Signals, *, among: NDArray[np.bool_] | None = None, confidence: float = 0.95) -> Interval:
    """The share of right predictions, 0 to 1, with Wilson's interval; among some of the samples, (n,), where any are chosen."""
    right = signals.correct if among is None or not among.any() else signals.correct[among]
    return wilson(int(right.sum()), len(right), confidence=confidence)


@dataclass(frozen=True, kw_only=True, slots=True)
class ClassAccuracy:
    """The accuracy on one class before and after, in percent."""

    label: str
    original: float
    unlearned: float


def per_class(original: Signals, unlearned: Signals) -> tuple[ClassAccuracy, ...]:
    """Accuracy on each class that occurs, before and after."""
    rows = []
    for label in np.unique(original.targets):
        here = original.targets == label
        before, after = original.correct[here].mean(), unlearned.correct[here].mean()
        rows.append(ClassAccuracy(label=str(label), original=100 * float(before), unlearned=100 * float(after)))
    return tuple(rows)


def agreement(first: Signals, second: Signals) -> float:
    """The share of samples that both models put in the same class."""
    return float((first.predictions == second.predictions).mean())


def jensen_shannon(first: Floats, second: Floats) -> float:
    """The mean Jensen-Shannon divergence in nats (0 to log 2) of two sets of distributions, (n, classes).

    In log space: where a probability underflows to 0 its term is 0, never NaN.
    """
    middle = (first + second) / 2
    return float(np.clip((_relative(first, middle) + _relative(second, middle)).mean() / 2, 0.0, np.log(2)))


def total_variation(first: Floats, second: Floats) -> float:
    """The mean total variation distance (0 to 1) of two sets of distributions, (n, classes)."""
    return float(np.abs(first - second).sum(axis=1).mean() / 2)


def _relative(p: Floats, q: Floats) -> Floats:
    logs = np.log(p, out=np.zeros_like(p), where=p > 0) - np.log(q, out=np.zeros_like(q), where=q > 0)
    result: Floats = (p * logs).sum(axis=1)
    return result


SignalsBySet = Mapping[str, Signals]
"""The signals of one model by set: forget, remain, held_out, test."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Measures:
    """The paper's four measures of one model, in percent; MI in both modes (`unlearning.audit.measures`)."""

    ua: Interval
    ra: Interval
    ta: Interval
    mi_salun: Interval
    mi_corrected: Interval

    @property
    def table(self) -> dict[str, float]:
        """ua, ra, ta and mi (as SalUn's), the four columns of the papers' tables, in percent."""
        return {"ua": self.ua.value, "ra": self.ra.value, "ta": self.ta.value, "mi": self.mi_salun.value}


def measure(
    model: nn.Module,
    *,
    forget: SampleSet,
    remain: SampleSet,
    held_out: SampleSet,
    test: SampleSet,
    objective: Objective,
    spec: AuditSpec | None = None,
    seed: int = 0,
) -> dict[str, float]:
    """One model's figures for a table: ua, ra, ta, mi (percent, mi as SalUn's) and membership_auc (loss, 0 to 1)."""
    spec = spec or AuditSpec()
    sets = {"forget": forget, "remain": remain, "held_out": held_out, "test": test}
    copied = frozen(model)
    seen = {s: observe(copied, sets[s], objective=objective, batch_size=spec.batch_size) for s in sets}
    pairing = pairing_of(forget, held_out, spec=spec, seed=seed)
    found = measures_of(seen, spec=replace(spec, vector_seeds=1), seed=seed)
    loss = _attack("loss", seen, pairing, spec=spec)
    return {**found.table, "membership_auc": loss.auc.value}


def measures_of(seen: SignalsBySet, *, spec: AuditSpec, seed: int) -> Measures:
    """UA, RA, TA and MI of one model, in percent."""

    def mi(mode: Mode) -> Interval:
        return paper_mi(
            remain=seen["remain"],
            test=seen["test"],
            forget=seen["forget"],
            mode=mode,
            seeds=spec.vector_seeds,
            most=spec.vector_samples,
            seed=seed,
            confidence=spec.confidence,
        ).scaled(100)

    right = {s: accuracy(seen[s], confidence=spec.confidence) for s in ("forget", "remain", "test")}
    return Measures(
        ua=right["forget"].complement().scaled(100),
        ra=right["remain"].scaled(100),
        ta=right["test"].scaled(100),
        mi_salun=mi("salun"),
        mi_corrected=mi("corrected"),
    )


def attacks_on(seen: SignalsBySet, pairing: Pairing, *, spec: AuditSpec) -> dict[str, Attack]:
    """Every threshold attack on one model by name, and "spread"."""
    return {name: _attack(name, seen, pairing, spec=spec) for name in (*ATTACKS, "spread")}


def pairing_of(forget: SampleSet, held_out: SampleSet, *, spec: AuditSpec, seed: int) -> Pairing:
    """Which samples the attacks compare: the same for every model of an audit."""
    targets = forget.targets.cpu().numpy(), held_out.targets.cpu().numpy()
    rng = np.random.default_rng([seed, 2])
    return pair(*targets, most=spec.membership_samples, replicates=spec.replicates, rng=rng)


def _attack(name: str, seen: SignalsBySet, pairing: Pairing, *, spec: AuditSpec) -> Attack:
    scores = {s: seen[s].membership("margin" if name == "spread" else name) for s in seen}
    if name == "spread":
        scores = spread_scores(scores, pairing)
    return attack(
        name,
        scores["forget"],
        scores["held_out"],
        pairing,
        threshold=member_threshold(scores["remain"], scores["test"]),
        confidence=spec.confidence,
        deciding=spec.thresholds.confidence,
    )
