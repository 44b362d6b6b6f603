"""The audit of an unlearned classifier: before, after and controls → findings and a verdict."""

import time
from collections.abc import Generator, Mapping
from dataclasses import replace

import numpy as np
from torch import nn

from unlearning.audit.change import change
from unlearning.audit.comparison import compare
from unlearning.audit.delay import Relearning, relearn_delay
from unlearning.audit.findings import Findings, Json, Measures, Membership
from unlearning.audit.intervals import Interval
from unlearning.audit.limits import limits
from unlearning.audit.membership import Attack, Pairing, attack, member_threshold, pair, roc, spread_scores
from unlearning.audit.paper_mi import Mode, paper_mi
from unlearning.audit.signals import ATTACKS, Signals, frozen, observe
from unlearning.audit.spec import AuditSpec
from unlearning.audit.utility import accuracy, agreement, jensen_shannon, per_class
from unlearning.audit.verdict import (
    Finding,
    change_findings,
    judge,
    membership_findings,
    relearn_findings,
    utility_findings,
)
from unlearning.errors import MethodRefused
from unlearning.objective import Objective
from unlearning.samples import SampleSet
from unlearning.task import Progress

MEMBERSHIP, RELEARN = "audit_membership", "audit_relearn"
Seen = Mapping[str, Signals]
"""The signals of one model by set: forget, remain, held_out, test."""


def audit(
    *,
    original: nn.Module,
    unlearned: nn.Module,
    forget: SampleSet,
    remain: SampleSet,
    held_out: SampleSet,
    test: SampleSet,
    objective: Objective,
    spec: AuditSpec,
    seed: int = 0,
    reference: nn.Module | None = None,
) -> Generator[Progress, None, Findings]:
    """Audit `unlearned` against `original` (which remembers) and, where there is one, a retrained `reference`.

    held_out: the part of D_v that nothing else has used. The models, their modes and buffers, and the process's random state
    are left as they are: everything runs on copies, seeded by `seed`. Raises MethodRefused for an empty set or an objective
    without logits.
    """
    sets = {"forget": forget, "remain": remain, "held_out": held_out, "test": test}
    for name, samples in sets.items():
        if not len(samples):
            raise MethodRefused(f"The {name} set is empty; an audit needs at least one sample in it.")
    models = {"original": frozen(original), "unlearned": frozen(unlearned)}
    if reference is not None:
        models["reference"] = frozen(reference)
    started = time.perf_counter()
    total = 3 * len(models) + 1
    seen: dict[str, Seen] = {}
    measures: dict[str, Measures] = {}
    attacks: dict[str, Mapping[str, Attack]] = {}
    pairing = pair(
        forget.targets.cpu().numpy(),
        held_out.targets.cpu().numpy(),
        most=spec.membership_samples,
        replicates=spec.replicates,
        rng=np.random.default_rng([seed, 2]),
    )
    step = 0
    for name, model in models.items():
        seen[name] = {s: observe(model, sets[s], objective=objective, batch_size=spec.batch_size) for s in sets}
        yield Progress(phase=MEMBERSHIP, step=(step := step + 1), total=total)
        measures[name] = measure_all(seen[name], spec=spec, seed=seed)
        yield Progress(phase=MEMBERSHIP, step=(step := step + 1), total=total)
        attacks[name] = attack_all(seen[name], pairing, spec=spec)
        yield Progress(phase=MEMBERSHIP, step=(step := step + 1), total=total)
    before, after = seen["original"], seen["unlearned"]
    membership = Membership(
        original=attacks["original"],
        unlearned=attacks["unlearned"],
        roc={"attack": "loss", **{m: _roc(seen[m], pairing) for m in ("original", "unlearned")}},
        losses=histograms(before, after),
        matched=pairing.matched,
        unmatched=pairing.unmatched,
        compared=len(pairing.forget),
    )
    changed = change(models["original"], models["unlearned"], before=before, after=after, thresholds=spec.thresholds)
    membership_seconds = time.perf_counter() - started
    yield Progress(phase=MEMBERSHIP, step=total, total=total, metrics={"auc": attacks["unlearned"]["loss"].auc.value})

    started, runs = time.perf_counter(), 1 + spec.relearn_orders + spec.relearn_controls
    total, step = runs * len(spec.relearners), 0
    relearnings: list[Relearning] = []
    for kind in spec.relearners:
        running = relearn_delay(
            original=models["original"],
            unlearned=models["unlearned"],
            reference=models.get("reference"),
            forget=forget,
            held_out=held_out,
            objective=objective,
            spec=spec,
            kind=kind,
            seed=seed,
        )
        while True:
            try:
                next(running)
            except StopIteration as end:
                relearnings.append(end.value)
                break
            yield Progress(phase=RELEARN, step=(step := step + 1), total=total)

    checks: list[Finding] = [
        *change_findings(changed),
        *membership_findings(
            attacks["original"], attacks["unlearned"], reference=attacks.get("reference"), thresholds=spec.thresholds
        ),
        *(finding for one in relearnings for finding in relearn_findings(one, thresholds=spec.thresholds)),
        *utility_findings(
            _accuracies(measures["original"]), _accuracies(measures["unlearned"]), thresholds=spec.thresholds
        ),
    ]
    verdict = judge(checks, forgotten=len(forget), thresholds=spec.thresholds)
    return Findings(
        spec=spec,
        samples={name: len(samples) for name, samples in sets.items()},
        measures=measures,
        membership=membership,
        relearnings=tuple(relearnings),
        utility={
            "per_class": per_class(before["test"], after["test"]),
            "agreement": agreement(before["held_out"], after["held_out"]),
            "jensen_shannon": jensen_shannon(before["held_out"].probabilities, after["held_out"].probabilities),
        },
        change=changed,
        comparison=compare(
            after,
            seen["reference"],
            measures=_values(measures["unlearned"]),
            reference_measures=_values(measures["reference"]),
            models=(models["unlearned"], models["reference"]),
        )
        if "reference" in models
        else None,
        verdict=verdict,
        limits=limits(membership=membership, pairing=pairing, forget=len(forget), spec=spec),
        seconds={MEMBERSHIP: membership_seconds, RELEARN: time.perf_counter() - started},
    )


def run_audit(steps: Generator[Progress, None, Findings]) -> Findings:
    """Run an audit to its end and give its findings."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            findings: Findings = end.value
            return findings


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
    pairing = pair(
        forget.targets.cpu().numpy(),
        held_out.targets.cpu().numpy(),
        most=spec.membership_samples,
        replicates=spec.replicates,
        rng=np.random.default_rng([seed, 2]),
    )
    found = measure_all(seen, spec=replace(spec, vector_seeds=1), seed=seed)
    loss = _attack("loss", seen, pairing, spec=spec)
    return {**_values(found), "membership_auc": loss.auc.value}


def measure_all(seen: Seen, *, spec: AuditSpec, seed: int) -> Measures:
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


def attack_all(seen: Seen, pairing: Pairing, *, spec: AuditSpec) -> dict[str, Attack]:
    """Every threshold attack on one model by name, and "spread"."""
    return {name: _attack(name, seen, pairing, spec=spec) for name in (*ATTACKS, "spread")}


def histograms(before: Seen, after: Seen, *, bins: int = 40) -> Json:
    """Densities of the loss by set, before and after, over common bins; the last bin holds everything beyond the 99th
    percentile, so that a few wild losses do not squeeze the rest into one bar.
    """
    names = ("forget", "held_out", "remain")
    most = max(float(np.quantile(seen[name].loss, 0.99)) for seen in (before, after) for name in names)
    edges = np.linspace(0.0, most or 1.0, bins + 1)

    def densities(seen: Seen) -> dict[str, list[float]]:
        return {n: np.histogram(seen[n].loss.clip(0, edges[-1]), edges, density=True)[0].tolist() for n in names}

    return {"bins": edges.tolist(), "original": densities(before), "unlearned": densities(after)}


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


def _roc(seen: Seen, pairing: Pairing) -> dict[str, list[float]]:
    return roc(seen["forget"].membership("loss"), seen["held_out"].membership("loss"), pairing)


def _accuracies(measures: Measures) -> dict[str, Interval]:
    return {"ra": measures.ra, "ta": measures.ta}


def _values(measures: Measures) -> dict[str, float]:
    return {
        "ua": measures.ua.value,
        "ra": measures.ra.value,
        "ta": measures.ta.value,
        "mi": measures.mi_salun.value,
    }
