"""One model's figures: the papers' four measures, and the membership attacks."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from torch import nn

from unlearning.audit.intervals import Interval
from unlearning.audit.membership import Attack, Pairing, attack, member_threshold, pair, spread_scores
from unlearning.audit.paper_mi import Mode, paper_mi
from unlearning.audit.signals import ATTACKS, Signals, frozen, observe
from unlearning.audit.spec import AuditSpec
from unlearning.audit.utility import accuracy
from unlearning.objective import Objective
from unlearning.samples import SampleSet

Seen = Mapping[str, Signals]
"""The signals of one model by set: forget, remain, held_out, test."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Measures:
    """The paper's four measures of one model, in percent; MI in both modes (`unlearning.audit.paper_mi`)."""

    ua: Interval
    ra: Interval
    ta: Interval
    mi_salun: Interval
    mi_corrected: Interval

    @property
    def table(self) -> dict[str, float]:
        """ua, ra, ta and mi (as SalUn's), the four columns of the papers' tables, in percent."""
        return {"ua": self.ua.value, "ra": self.ra.value, "ta": self.ta.value, "mi": self.mi_salun.value}

    def to_json(self) -> dict[str, object]:
        """The model's part of the report's `measures`."""
        return {name: getattr(self, name).to_json() for name in ("ua", "ra", "ta", "mi_salun", "mi_corrected")}


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


def measures_of(seen: Seen, *, spec: AuditSpec, seed: int) -> Measures:
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


def attacks_on(seen: Seen, pairing: Pairing, *, spec: AuditSpec) -> dict[str, Attack]:
    """Every threshold attack on one model by name, and "spread"."""
    return {name: _attack(name, seen, pairing, spec=spec) for name in (*ATTACKS, "spread")}


def pairing_of(forget: SampleSet, held_out: SampleSet, *, spec: AuditSpec, seed: int) -> Pairing:
    """Which samples the attacks compare: the same for every model of an audit."""
    targets = forget.targets.cpu().numpy(), held_out.targets.cpu().numpy()
    rng = np.random.default_rng([seed, 2])
    return pair(*targets, most=spec.membership_samples, replicates=spec.replicates, rng=rng)


def _attack(name: str, seen: Seen, pairing: Pairing, *, spec: AuditSpec) -> Attack:
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
