"""The papers' four measures of a model: UA, RA, TA and MI."""

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from torch import nn

from unlearning.audit.intervals import Floats, Interval, wilson
from unlearning.audit.membership import evaluate_attack, pair_sets
from unlearning.audit.signals import Signals, SignalsBySet, audit_copy, merit_of, observe
from unlearning.data.objectives import Objective
from unlearning.data.samples import SampleSet
from unlearning.specs.audit import AuditSpec

Mode = Literal["salun", "corrected"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Measures:
    """The four measures of one model, percent. MI has both modes (`paper_mi`).

    ra, ta: the merit of a set, with classes its accuracy. ua: the best merit less that of D_f, with classes the error.
    """

    ua: Interval
    ra: Interval
    ta: Interval
    mi_salun: Interval
    mi_corrected: Interval

    @property
    def table(self) -> dict[str, float]:
        """ua, ra, ta and mi (mode "salun"), the four columns of the papers' tables, percent."""
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
    """Measure one model for a table: ua, ra, ta, mi (percent, mode "salun") and membership_auc (loss attack, 0 to 1)."""
    spec = spec or AuditSpec()
    sets = {"forget": forget, "remain": remain, "held_out": held_out, "test": test}
    copied = audit_copy(model, forget)
    signals = {s: observe(copied, sets[s], objective=objective, batch_size=spec.batch_size) for s in sets}
    pairing = pair_sets(forget, held_out, objective=objective, spec=spec, seed=seed)
    measures = measures_of(signals, spec=replace(spec, vector_seeds=1), seed=seed)
    loss = evaluate_attack("loss", signals, pairing, spec=spec)
    return {**measures.table, "membership_auc": loss.auc.value}


def measures_of(signals: SignalsBySet, *, spec: AuditSpec, seed: int) -> Measures:
    """Compute the four measures of one model from its signals."""
    right = {s: merit_of(signals[s], confidence=spec.confidence) for s in ("forget", "remain", "test")}
    best, lost = signals["forget"].bounds[1] / 100, right["forget"]
    return Measures(
        ua=Interval(best - lost.value, best - lost.high, best - lost.low).scaled(100),
        ra=right["remain"].scaled(100),
        ta=right["test"].scaled(100),
        mi_salun=paper_mi(signals, mode="salun", spec=spec, seed=seed).scaled(100),
        mi_corrected=paper_mi(signals, mode="corrected", spec=spec, seed=seed).scaled(100),
    )


def paper_mi(signals: SignalsBySet, *, mode: Mode, spec: AuditSpec, seed: int = 0) -> Interval:
    """Compute MI: the share, 0 to 1, of D_f that an RBF support-vector classifier (C = 3, gamma "auto") on p_y calls non-member.

    mode: "salun": members are the first |D_t| samples of D_r, p_y is not scaled, as in SalUn's and LTU's evaluation [paper].
        "corrected": members are drawn from D_r with D_t's class mix, as many as non-members; p_y is standardised; the mean of
        `spec.vector_seeds` draws [ours].
    Of D_t at most `spec.vector_samples` are used, because the time of the fit grows with the square. The interval is Wilson's over
    D_f.
    """
    remain, test, forget = (signals[name] for name in ("remain", "test", "forget"))
    most = spec.vector_samples
    if mode == "salun":
        n = min(len(remain), len(test), most)
        share = _non_member_share(remain.confidence[:n], test.confidence[:most], forget.confidence)
    else:
        draws = (np.random.default_rng([seed, draw]) for draw in range(spec.vector_seeds))
        share = float(np.mean([_corrected_share(remain, test, forget, max_samples=most, rng=rng) for rng in draws]))
    return wilson(share * len(forget), len(forget), confidence=spec.confidence)


def _corrected_share(
    remain: Signals, test: Signals, forget: Signals, *, max_samples: int, rng: np.random.Generator
) -> float:
    members, non_members = [], []
    outside = rng.permutation(len(test))[:max_samples]
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
    return _non_member_share(
        (remain.confidence[inside] - centre) / scale,
        (test.confidence[outside] - centre) / scale,
        (forget.confidence - centre) / scale,
    )


def _non_member_share(members: Floats, non_members: Floats, asked: Floats) -> float:
    # Without random_state fit() would draw a seed from numpy's global state.
    from sklearn.svm import SVC  # here, because a process that only trains should not wait for it

    attack = SVC(C=3.0, gamma="auto", kernel="rbf", random_state=0)
    known: Floats = np.concatenate([members, non_members])[:, None]
    labels: NDArray[np.int64] = np.repeat([1, 0], [len(members), len(non_members)])
    attack.fit(known, labels)
    return float(1 - attack.predict(asked[:, None]).mean())
