"""The audit report: what was asked, done, measured and found, and what that does not show."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from pydantic import ValidationError

from ledger import resources
from ledger.jobs.claims import Claim
from ledger.states import Phase
from report.document import (
    SCHEMA_ID,
    Asked,
    Attempt,
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
from report.evidence import VerdictValue
from unlearning.audit.causes import likely_causes
from unlearning.specs import EXACT
from worker import report_audit
from worker.attempt import AttemptResult
from worker.inputs import JobInputs

NOTHING_TO_REMOVE = "No forgotten sample took part, so there is no influence to remove, whatever the audit below finds."
"""What makes a result exact."""

EXACT_STATEMENTS = {
    "retrain": (
        "The new weights were trained anew, from the weights that the workload's factory builds, on the remaining samples alone. "
        f"{NOTHING_TO_REMOVE} This rests on two things. What the factory builds must not have been trained on the forgotten "
        "samples, and neither must what the training leaves frozen, which is taken over from the version before."
    ),
    "rewind": (
        "The new weights were trained on the remaining samples alone, from weights that were kept during the model's training, "
        f"before the first slice of the training set with a forgotten sample. {NOTHING_TO_REMOVE} This rests on three things. The "
        "kept weights must be of a training on the samples that the ledger recorded for them, which are the ones that remain. What "
        "the factory builds must not have been trained on the forgotten samples, and neither must what the training leaves frozen."
    ),
    "drop_adapter": (
        "The adapters that learned from the forgotten samples, and from no others, were replaced by untrained ones. Nothing that "
        f"training moves is outside an adapter. {NOTHING_TO_REMOVE} This rests on two things. Each adapter must have been trained "
        "on the samples alone that the workload names for it. What is frozen must not have been trained on the forgotten samples."
    ),
}
"""What a report says of a method in `EXACT`, by its kind."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Background:
    """What the ledger adds to a report."""

    timeline: Sequence[resources.Event]
    attempts: Sequence[resources.Attempt]
    now: datetime


def build_report(
    claim: Claim,
    inputs: JobInputs,
    result: AttemptResult,
    *,
    report_id: UUID,
    background: Background,
    manifest_root: str,
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
            asked=asked(claim, manifest_root=manifest_root),
            model=model(claim, inputs, result, weights_sha256=weights_sha256),
            method=method(claim, result, background),
            timeline=tuple(
                TimelineEvent(at=event.at, kind=event.kind, text=event.text) for event in background.timeline
            ),
            thresholds=report_audit.thresholds(result.findings),
            verdict=report_audit.verdict(result.findings.verdict),
            exactness=exactness(claim, inputs, result),
            audit=report_audit.audit(result.findings),
            timings=stages(claim, inputs, result, seconds=timings),
            limits=result.findings.limits,
        )
    except ValidationError as error:
        raise InvalidReport(faults(error)) from error


def asked(claim: Claim, *, manifest_root: str) -> Asked:
    """Summarise the requests of the job."""
    people = {} if claim.subjects is None else {"subjects": claim.subjects}
    return Asked(
        requests=claim.requests,
        samples=len(claim.forget),
        samples_previously_forgotten=len(claim.erased),
        manifest_root=manifest_root,
        regulation=tuple(claim.regulations),
        received_at=claim.received_at,
        due_at=claim.due_at,
        **people,
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
    if claim.reference is None or inputs.reference is None:
        return None
    return Reference(version=claim.reference.version, weights_sha256=claim.reference.weights_sha256)


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
            result.findings, forget=inputs.forget, remain=inputs.remain, held_out=inputs.held_out.audit
        ),
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
