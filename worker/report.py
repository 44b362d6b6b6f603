"""The audit report: what was asked, done, measured and found, and what that does not show.

This is the one place where the library's types meet the report's.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from itertools import groupby
from typing import Any, TypeVar
from uuid import UUID

from pydantic import JsonValue, ValidationError
from sqlalchemy.orm import Session

from ledger import resources
from ledger.db import now
from ledger.events.timeline import list_job_events
from ledger.jobs.claims import Claim
from ledger.jobs.jobs import list_attempts
from ledger.states import Phase
from ledger.transparency.commitments import Commitment
from report import document, evidence
from report.document import (
    SCHEMA_ID,
    Asked,
    Attempt,
    Certificate,
    Exactness,
    InvalidReport,
    Method,
    Model,
    Origin,
    Reference,
    Report,
    RetrainEstimate,
    StopReason,
    TimelineEvent,
    Timings,
    faults,
)
from report.evidence import Section, VerdictValue
from report.formatting import plural
from unlearning.audit import extraction
from unlearning.audit.findings import Findings, Membership, likely_causes
from unlearning.audit.generation import Generated
from unlearning.audit.reference_test import ReferenceTest, samples_needed
from unlearning.audit.relearning import Curve, Relearning, typical_delay
from unlearning.audit.verdict import Finding, Verdict
from unlearning.specs import EXACT
from worker.attempt import AttemptResult
from worker.inputs import JobInputs

S = TypeVar("S", bound=Section)

NOTHING_TO_REMOVE = "No forgotten sample took part, so there is no influence to remove, whatever the audit below finds."
"""What makes a result exact."""

EXACT_STATEMENTS = {
    "retrain": (
        "The new weights were trained anew, from the weights that the workload's factory builds, on the remaining samples alone. "
        f"{NOTHING_TO_REMOVE} This rests on two things. What the factory builds must not have been trained on the forgotten "
        "samples, nor may it scale its data by them, and what the training leaves frozen, which is taken over from the version "
        "before, must not have been trained on them either."
    ),
    "rewind": (
        "The new weights were trained on the remaining samples alone, from weights that were kept during the model's training, "
        f"before the first slice of the training set with a forgotten sample. {NOTHING_TO_REMOVE} This rests on three things. The "
        "kept weights must be of a training on the samples that the ledger recorded for them, which are the ones that remain. What "
        "the factory builds must not have been trained on the forgotten samples, nor may it scale its data by them, and what the "
        "training leaves frozen must not have been trained on them either."
    ),
    "drop_adapter": (
        "The adapters that learned from the forgotten samples, and from no others, were replaced by untrained ones. Nothing that "
        f"training moves is outside an adapter. {NOTHING_TO_REMOVE} This rests on two things. Each adapter must have been trained "
        "on the samples alone that the workload names for it. What is frozen must not have been trained on the forgotten samples."
    ),
}
"""What a report says of a method in `EXACT`, by its kind."""


CERTIFIED_STATEMENT = (
    "The output layer was trained on with noise, on remaining samples alone. Whatever somebody concludes from its weights is at "
    "most e^ε times as probable, up to δ, as for an output layer that never learned from the forgotten samples and was trained on "
    "in the same way, and the other way round: ε = {epsilon:g}, δ = {delta:g}. This is not exact; ε = 0 and δ = 0 would be."
)
CERTIFIED_ASSUMPTIONS = (
    "The frozen part of the model was never trained on the forgotten samples. Nothing here checks this.",
    "The loss is convex in the outputs, and its second derivative is at most what the objective names. A sample's loss depends on "
    "its own outputs and target alone.",
    "Nobody who studies the weights knows the seed of the noise. Rounding errors, of about 1e-14, lie far below the noise.",
    "The weights from before, other versions of the model, and a comparison of two versions are not covered.",
)
"""What a report says of the method `certified`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Background:
    """What the ledger adds to a report."""

    timeline: Sequence[resources.Event]
    attempts: Sequence[resources.Attempt]
    now: datetime


def read_background(session: Session, claim: Claim) -> Background:
    """Read from the ledger what the report says beside the measurements."""
    return Background(
        attempts=list_attempts(session, tenant_id=claim.tenant_id, job_id=claim.job_id),
        timeline=list_job_events(session, tenant_id=claim.tenant_id, job_id=claim.job_id, limit=None),
        now=now(session),
    )


def build_report(
    claim: Claim,
    inputs: JobInputs,
    result: AttemptResult,
    *,
    report_id: UUID,
    background: Background,
    commitment: Commitment,
    people: Commitment | None = None,
    weights_sha256: str,
    timings: Mapping[str, float],
) -> Report:
    """Build the report from counts and commitments only: no sample's ID, no digest of a single sample.

    Raises InvalidReport if a value does not follow the schema.
    """
    try:
        return Report(
            schema_id=SCHEMA_ID,
            report_id=str(report_id),
            created_at=background.now,
            asked=asked(claim, commitment=commitment, people=people),
            model=model(claim, inputs, result, weights_sha256=weights_sha256),
            method=method(claim, result, background),
            timeline=timeline(background.timeline),
            thresholds=thresholds(result.findings),
            verdict=verdict(result.findings.verdict),
            exactness=exactness(claim, inputs, result),
            certificate=certificate(claim, result),
            audit=audit(result.findings),
            timings=stages(claim, inputs, result, seconds=timings),
            limits=result.findings.limits,
        )
    except ValidationError as error:
        raise InvalidReport(faults(error)) from error


SHOWN_JOINS = 10
"""How many requests that join one after the other the timeline names each by itself."""


def timeline(events: Sequence[resources.Event]) -> tuple[TimelineEvent, ...]:
    """Write the job's events. Many requests that join one after the other are the first one and the number of the others."""
    written: list[TimelineEvent] = []
    for kind, group in groupby(events, key=lambda event: event.kind):
        run = list(group)
        shown = run if kind != "job.joined" or len(run) <= SHOWN_JOINS else run[:1]
        written += [TimelineEvent(at=event.at, kind=event.kind, text=event.text) for event in shown]
        if len(shown) < len(run):
            text = f"By now, {plural(len(run) - 1, 'more request')} joined."
            written.append(TimelineEvent(at=run[-1].at, kind=kind, text=text))
    return tuple(written)


def asked(claim: Claim, *, commitment: Commitment, people: Commitment | None) -> Asked:
    """Summarise the requests of the job."""
    given = {"subjects": claim.subjects, "subjects_root": None if people is None else people.root}
    by_person: Any = {name: value for name, value in given.items() if value is not None}
    return Asked(
        requests=claim.requests,
        samples=len(claim.samples.forget),
        samples_previously_forgotten=len(claim.samples.erased),
        manifest_root=commitment.root,
        regulation=tuple(claim.regulations),
        received_at=claim.received_at,
        due_at=claim.due_at,
        **by_person,
    )


def model(claim: Claim, inputs: JobInputs, result: AttemptResult, *, weights_sha256: str) -> Model:
    """Name the model and its weights before and after."""
    return Model(
        name=claim.model,
        dataset=claim.dataset,
        workload=claim.workload,
        parameters=sum(parameter.numel() for parameter in result.model.parameters()),
        version_before=claim.base_version,
        version_after=claim.next_version,
        weights_before_sha256=claim.weights_sha256,
        weights_after_sha256=weights_sha256,
        reference=reference(claim, inputs),
    )


def reference(claim: Claim, inputs: JobInputs) -> Reference | None:
    """Name the retrained model that the audit compared the result with; None if it had none."""
    if claim.retrained is None or inputs.retrained is None:
        return None
    return Reference(version=claim.retrained.version, weights_sha256=claim.retrained.weights_sha256)


def method(claim: Claim, result: AttemptResult, background: Background) -> Method:
    """Describe the published attempt's method, and every attempt of the job."""
    return Method(
        kind=claim.method["kind"],
        parameters={name: value for name, value in claim.method.items() if name != "kind"},
        origin=Origin(claim.origin),
        steps=result.outcome.steps,
        stopped_because=StopReason(result.outcome.stopped_because),
        attempts=tuple(
            attempt(one, result, published=claim.attempt, now=background.now) for one in background.attempts
        ),
    )


def exactness(claim: Claim, inputs: JobInputs, result: AttemptResult) -> Exactness | None:
    """Say why the result is exact and what may have kept its audit from verifying it; None for a method that approximates."""
    if claim.method["kind"] not in EXACT:
        return None
    return Exactness(
        statement=EXACT_STATEMENTS[claim.method["kind"]],
        causes=likely_causes(
            result.findings,
            forget=inputs.forget,
            remain=inputs.remain,
            held_out=inputs.held_out.audit,
            copies=None if inputs.references is None else inputs.references.copies,
        ),
    )


def certificate(claim: Claim, result: AttemptResult) -> Certificate | None:
    """State what the method certifies, and the assumptions; None for a method that certifies nothing."""
    if claim.method["kind"] != "certified":
        return None
    found = result.outcome.metrics
    return Certificate(
        epsilon=found["epsilon"],
        delta=found["delta"],
        noise=found["noise"],
        statement=CERTIFIED_STATEMENT.format(epsilon=found["epsilon"], delta=found["delta"]),
        assumptions=CERTIFIED_ASSUMPTIONS,
    )


def attempt(view: resources.Attempt, result: AttemptResult, *, published: int, now: datetime) -> Attempt:
    """Describe one attempt; the verdict is None if it ended before its audit."""
    found = result.findings.verdict.value if view.number == published else (view.finding or {}).get("verdict")
    return Attempt(
        attempt=view.number,
        method=view.method["kind"],
        verdict=None if found is None else VerdictValue(found),
        seconds=round(((view.finished_at or now) - view.started_at).total_seconds(), 3),
    )


def stages(claim: Claim, inputs: JobInputs, result: AttemptResult, *, seconds: Mapping[str, float]) -> Timings:
    """Give the seconds of the stages that are over when the report is written."""
    return Timings(
        load=round(seconds.get(Phase.LOAD, 0.0), 3),
        unlearn=round(seconds.get(Phase.UNLEARN, 0.0), 3),
        audit_membership=round(seconds.get(Phase.AUDIT_MEMBERSHIP, 0.0), 3),
        audit_relearn=round(seconds.get(Phase.AUDIT_RELEARN, 0.0), 3),
        setup={name: round(value, 3) for name, value in result.outcome.setup_seconds.items()},
        retrain_estimate=retrain_estimate(inputs, training_seconds=claim.details.get("training_seconds")),
    )


def retrain_estimate(inputs: JobInputs, *, training_seconds: float | None) -> RetrainEstimate | None:
    """Estimate how long retraining without the forgotten samples would take; None if the training was not timed."""
    if training_seconds is None:
        return None
    share = len(inputs.remain) / len(inputs.workload.train)
    return RetrainEstimate(
        seconds=round(training_seconds * share, 3),
        source=f"recorded training time × {share:.3f}, the share of the training set that remains",
    )


def as_section(kind: type[S], **given: object) -> S:
    """Make a section of the report. What the library and the report call by the same name is read by that name, at any depth.

    Raises ValidationError.
    """
    return kind.model_validate(given, from_attributes=True)


def audit(findings: Findings) -> evidence.Audit:
    """Give everything that was measured."""
    merit = findings.merit
    more: dict[str, Any] = {"extraction": extractions(findings.extraction)} if findings.extraction else {}
    more |= {"generation": generations(findings.generation)} if findings.generation else {}
    if findings.privacy_leakage:
        more["privacy_leakage"] = evidence.PrivacyLeakage(attack="min_k", **findings.privacy_leakage)
    return as_section(
        evidence.Audit,
        samples=evidence.Samples(**findings.samples),
        merit=evidence.Merit(name=merit.name, complement=merit.complement, unit=merit.unit, best=merit.bounds[1]),
        measures=as_section(evidence.MeasuresByModel, **by_model(findings.measures)),
        membership=membership(findings.membership),
        relearn=relearn(findings.relearnings[0]),
        utility=findings.utility,
        change=findings.change,
        reference_test=reference_tests(findings),
        **more,
    )


def by_model(found: Mapping[str, object]) -> dict[str, object]:
    """Give what was found on each model; None of a retrained one where there is none."""
    return {"original": found["original"], "unlearned": found["unlearned"], "reference": found.get("reference")}


def extractions(found: Mapping[str, extraction.Extraction]) -> tuple[evidence.Extraction, ...]:
    """Give what each model gives away, by measure: of each set for which it was measured."""

    def shares(measure: str) -> dict[str, object]:
        return by_model(
            {
                model: {name: values[measure] for name, values in sets.items() if measure in values}
                for model, sets in found.items()
            }
        )

    return tuple(
        as_section(evidence.Extraction, name=measure, **shares(measure)) for measure in found["unlearned"]["forget"]
    )


def generations(found: Mapping[str, Generated]) -> tuple[evidence.GenerationMeasure, ...]:
    """Give what each model generates, by measure."""
    return tuple(
        as_section(
            evidence.GenerationMeasure,
            name=measure,
            **by_model({model: figures[measure] for model, figures in found.items()}),
        )
        for measure in found["unlearned"]
    )


def reference_tests(findings: Findings) -> evidence.ReferenceTests | None:
    """Give the reference test on each model; None if the audit had no reference predictions."""
    if not findings.reference_tests:
        return None
    return as_section(
        evidence.ReferenceTests,
        **by_model({name: reference_test(test) for name, test in findings.reference_tests.items()}),
        **({} if findings.nearness is None else {"nearness": findings.nearness}),
        unit=findings.reference_tests["unlearned"].unit,
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


def membership(findings: Membership) -> evidence.Membership:
    """Give the attacks that a report names, one ROC curve and the losses. "spread" stands in the verdict alone."""
    attacks = tuple(
        as_section(evidence.Attack, name=name, original=original, unlearned=findings.unlearned[name])
        for name, original in findings.original.items()
        if name != "spread"
    )
    return as_section(evidence.Membership, attacks=attacks, roc=findings.roc, losses=findings.losses)


def relearn(relearning: Relearning) -> evidence.Relearn:
    """Give one relearner's curves and typical delays: of several parts the first curve, of several controls the median one."""
    original, unlearned, control = relearning.original, relearning.unlearned[0], relearning.control
    reference, relearner = relearning.reference, relearning.relearner
    return evidence.Relearn(
        relearner=relearning.kind,
        learning_rate=relearner.learning_rate if relearner else 0.0,
        max_steps=relearner.limit if relearner else 0,
        delta=relearning.delta,
        curves=evidence.Curves(
            original=curve(original),
            unlearned=curve(unlearned),
            control=curve(control),
            reference=None if reference is None else curve(reference),
        ),
        delay=evidence.Delays(
            original=delay(original, original.delay),
            unlearned=delay(unlearned, relearning.unlearned_delay),
            control=delay(control, relearning.control_delay),
            reference=None if reference is None else delay(reference, typical_delay(relearning.references)),
        ),
        ratio_to_control=None if relearning.ratio is None else relearning.ratio.value,
        normalised=relearning.normalised,
    )


def curve(one: Curve) -> evidence.Curve:
    """Give the loss after the steps of relearning at which it was computed."""
    return evidence.Curve(steps=one.steps, loss=one.losses)


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
