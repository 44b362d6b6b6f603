"""The audit's findings as sections of the report: the one place where the library's types meet the report's."""

from collections.abc import Mapping
from dataclasses import asdict

from pydantic import JsonValue

from report import document, evidence
from unlearning.audit import extraction
from unlearning.audit.findings import Findings, Membership
from unlearning.audit.intervals import Interval
from unlearning.audit.measures import Measures
from unlearning.audit.membership import Attack, RocCurve
from unlearning.audit.reference_test import ReferenceTest, samples_needed
from unlearning.audit.relearning import Curve, Relearning
from unlearning.audit.verdict import Finding, Verdict


def audit(findings: Findings) -> evidence.Audit:
    """Give everything that was measured."""
    change, utility, reference = findings.change, findings.utility, findings.measures.get("reference")
    extracted = {"extraction": extractions(findings)} if findings.extraction else {}
    return evidence.Audit(
        samples=evidence.Samples(**findings.samples),
        merit=evidence.Merit(
            name=findings.merit.name,
            complement=findings.merit.complement,
            unit=findings.merit.unit,
            best=findings.merit.bounds[1],
        ),
        measures=evidence.MeasuresByModel(
            original=measures(findings.measures["original"]),
            unlearned=measures(findings.measures["unlearned"]),
            reference=None if reference is None else measures(reference),
        ),
        membership=membership(findings.membership),
        relearn=relearn(findings.relearnings[0]),
        utility=evidence.Utility(
            per_class=tuple(
                evidence.ClassUtility(label=one.label, original=one.original, unlearned=one.unlearned)
                for one in utility.per_class
            ),
            agreement=utility.agreement,
            jensen_shannon=utility.jensen_shannon,
        ),
        change=evidence.Change(**asdict(change)),
        reference_test=reference_tests(findings),
        **extracted,
    )


def extractions(findings: Findings) -> tuple[evidence.Extraction, ...]:
    """Give what each model gives away, by measure."""

    def shares(of: extraction.Extraction, measure: str) -> evidence.ExtractedShares:
        return evidence.ExtractedShares(
            forget=estimate(of["forget"][measure]), held_out=estimate(of["held_out"][measure])
        )

    found = findings.extraction
    reference = found.get("reference")
    return tuple(
        evidence.Extraction(
            name=measure,
            original=shares(found["original"], measure),
            unlearned=shares(found["unlearned"], measure),
            reference=None if reference is None else shares(reference, measure),
        )
        for measure in found["unlearned"]["forget"]
    )


def reference_tests(findings: Findings) -> evidence.ReferenceTests | None:
    """Give the reference test on each model; None if the audit had no reference predictions."""
    tests = {name: reference_test(test) for name, test in findings.reference_tests.items()}
    if not tests:
        return None
    return evidence.ReferenceTests(
        unit=findings.reference_tests["unlearned"].unit,
        original=tests["original"],
        unlearned=tests["unlearned"],
        reference=tests.get("reference"),
        power_by_size={str(size): power for size, power in findings.power_by_size.items()},
        samples_needed=samples_needed(findings.power_by_size, findings.spec.thresholds),
    )


def reference_test(one: ReferenceTest) -> evidence.ReferenceTest:
    """Give the reference test on one model."""
    low, high = one.null
    return evidence.ReferenceTest(
        known=one.known,
        low=low,
        high=high,
        if_seen=one.alternative,
        spread=one.spread,
        max_spread=one.max_spread,
        power=one.power,
        passed=one.passed,
    )


def estimate(interval: Interval) -> evidence.Estimate:
    """Give a value with its interval."""
    return evidence.Estimate(value=interval.value, low=interval.low, high=interval.high)


def measures(one: Measures) -> evidence.Measures:
    """Give one model's UA, RA and TA, in the merit, and MI."""
    return evidence.Measures(
        ua=estimate(one.ua),
        ra=estimate(one.ra),
        ta=estimate(one.ta),
        mi_salun=estimate(one.mi_salun),
        mi_corrected=estimate(one.mi_corrected),
    )


def membership(findings: Membership) -> evidence.Membership:
    """Give the attacks that a report names, one ROC curve and the losses. "spread" stands in the verdict alone."""
    return evidence.Membership(
        attacks=tuple(
            evidence.Attack(name=name, original=scores(original), unlearned=scores(findings.unlearned[name]))
            for name, original in findings.original.items()
            if name != "spread"
        ),
        roc=evidence.Roc(
            attack=findings.roc.attack, original=rates(findings.roc.original), unlearned=rates(findings.roc.unlearned)
        ),
        losses=evidence.Losses(
            bins=findings.losses.bins,
            original=evidence.LossDensities(**findings.losses.original),
            unlearned=evidence.LossDensities(**findings.losses.unlearned),
        ),
    )


def scores(attack: Attack) -> evidence.AttackScores:
    """Give how well an attack works on one model."""
    return evidence.AttackScores(
        auc=estimate(attack.auc),
        balanced_accuracy=estimate(attack.balanced_accuracy),
        tpr_at_1_fpr=None if attack.tpr_at_1_fpr is None else estimate(attack.tpr_at_1_fpr),
        tpr_at_01_fpr=None if attack.tpr_at_01_fpr is None else estimate(attack.tpr_at_01_fpr),
    )


def rates(curve: RocCurve) -> evidence.RocCurve:
    """Give the rates of an attack at each threshold."""
    return evidence.RocCurve(fpr=curve.fpr, tpr=curve.tpr)


def relearn(relearning: Relearning) -> evidence.Relearn:
    """Give one relearner's curves and delays: of several orders the first curve, of several controls the median one."""
    original, unlearned, control = relearning.original, relearning.unlearned[0], relearning.control
    reference, relearner = relearning.reference, relearning.relearner
    return evidence.Relearn(
        relearner=relearning.kind,
        learning_rate=relearner.learning_rate if relearner else 0.0,
        max_steps=relearner.limit if relearner else 0,
        delta=relearning.delta,
        curves=evidence.Curves(
            original=losses(original),
            unlearned=losses(unlearned),
            control=losses(control),
            reference=None if reference is None else losses(reference),
        ),
        delay=evidence.Delays(
            original=delay(original, original.delay),
            unlearned=delay(unlearned, relearning.unlearned_delay),
            control=delay(control, relearning.control_delay),
            reference=None if reference is None else delay(reference, reference.delay),
        ),
        ratio_to_control=None if relearning.ratio is None else relearning.ratio.value,
        normalised=relearning.normalised,
    )


def losses(curve: Curve) -> evidence.Curve:
    """Give the loss at each step of relearning."""
    return evidence.Curve(steps=tuple(range(len(curve.losses))), loss=curve.losses)


def delay(curve: Curve, steps: float) -> evidence.Delay:
    """Give a relearn delay; the typical delay of several curves is given to a tenth of a step."""
    return evidence.Delay(steps=max(0.0, round(steps, 1)), censored=curve.censored, travelled=curve.travelled)


def verdict(one: Verdict) -> document.Verdict:
    """Give the verdict with each of its checks."""
    return document.Verdict(
        value=evidence.VerdictValue(one.value),
        reason=None if one.reason is None else document.InconclusiveReason(one.reason),
        sentence=one.sentence,
        findings=tuple(finding(check) for check in one.findings),
        warnings=one.warnings,
    )


def finding(one: Finding) -> document.Finding:
    """Give one check, with its interval if it has one."""
    numbers: Mapping[str, float | None] = (
        asdict(one.interval) if one.interval else dict.fromkeys(("value", "low", "high"))
    )
    return document.Finding(code=one.code, passed=one.passed, text=one.text, **numbers)


def thresholds(findings: Findings) -> dict[str, JsonValue]:
    """Give the verdict's thresholds, and the audit's settings beside them."""
    settings = asdict(findings.spec)
    return {
        **settings.pop("thresholds"),
        "settings": settings | {"relearners": list(findings.spec.relearners)},
        "membership_margin_used": findings.membership.margin,
    }
