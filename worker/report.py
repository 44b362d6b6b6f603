"""The audit report's JSON: what was asked, done, measured and found, and what that does not show."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from ledger.events.timeline import EventView
from ledger.jobs.claims import Claim
from ledger.jobs.jobs import AttemptView
from ledger.states import Phase
from worker.attempt import AttemptResult
from worker.inputs import JobInputs

SCHEMA = "https://expunge.dev/schemas/report/v1"

TIMED = (Phase.LOAD, Phase.UNLEARN, Phase.AUDIT_MEMBERSHIP, Phase.AUDIT_RELEARN)
"""The stages that are over when the report is written."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Background:
    """What the ledger adds to a report."""

    timeline: Sequence[EventView]
    attempts: Sequence[AttemptView]
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
) -> dict[str, Any]:
    """Assemble the report. Counts and commitments only: no sample's ID, no digest of a single sample."""
    method = dict(claim.method)
    return {
        "schema": SCHEMA,
        "report_id": str(report_id),
        "created_at": moment(background.now),
        "asked": {
            "requests": claim.requests,
            "samples": len(claim.forget),
            "samples_previously_forgotten": len(claim.erased),
            "manifest_root": manifest_root,
            "regulation": list(claim.regulations),
            "received_at": claim.received_at and moment(claim.received_at),
            "due_at": claim.due_at and moment(claim.due_at),
        },
        "model": {
            "name": claim.model,
            "dataset": claim.dataset,
            "workload": claim.workload,
            "parameters": sum(parameter.numel() for parameter in result.model.parameters()),
            "version_before": claim.base_version,
            "version_after": claim.next_version,
            "weights_before_sha256": claim.weights_sha256,
            "weights_after_sha256": weights_sha256,
            "reference": held_against(claim, inputs),
        },
        "method": {
            "kind": method.pop("kind"),
            "parameters": method,
            "origin": claim.origin,
            "steps": result.outcome.steps,
            "stopped_because": result.outcome.stopped_because,
            "attempts": [
                told(attempt, result, published=claim.attempt, now=background.now) for attempt in background.attempts
            ],
        },
        "timeline": [{"at": moment(event.at), "kind": event.kind, "text": event.text} for event in background.timeline],
        "timings": {
            **{stage.value: seconds(timings, stage) for stage in TIMED},
            "setup": {name: round(value, 3) for name, value in result.outcome.setup_seconds.items()},
            "retrain_estimate": retrain_estimate(inputs, training_seconds=claim.details.get("training_seconds")),
        },
        **result.findings.to_json(),
    }


def held_against(claim: Claim, inputs: JobInputs) -> dict[str, Any] | None:
    """Name the model that the result was held against; None where the audit had none."""
    if claim.reference is None or inputs.reference is None:
        return None
    return {"version": claim.reference.version, "weights_sha256": claim.reference.weights_sha256}


def told(attempt: AttemptView, result: AttemptResult, *, published: int, now: datetime) -> dict[str, Any]:
    """Describe one attempt; the verdict is None where it ended before its audit."""
    finding = attempt.finding or {}
    return {
        "attempt": attempt.number,
        "method": attempt.method["kind"],
        "verdict": result.findings.verdict.value if attempt.number == published else finding.get("verdict"),
        "seconds": round(((attempt.finished_at or now) - attempt.started_at).total_seconds(), 3),
    }


def seconds(timings: Mapping[str, float], stage: Phase) -> float:
    """Look up how long a stage took."""
    return round(timings.get(stage.value, 0.0), 3)


def retrain_estimate(inputs: JobInputs, *, training_seconds: float | None) -> dict[str, Any] | None:
    """Estimate what training again without the forgotten samples would take; None where the training was not timed."""
    if training_seconds is None:
        return None
    share = len(inputs.remain) / len(inputs.workload.train)
    return {
        "seconds": round(training_seconds * share, 3),
        "source": f"recorded training time × {share:.3f}, the share of the training set that remains",
    }


def moment(time: datetime) -> str:
    """Write a time as RFC 3339."""
    return time.isoformat()
