"""Results of attempts: publish a version, start the policy's next method, or fail. Each is one fenced transaction."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any
from uuid import UUID

from sqlalchemy.orm import Session

from ledger.errors import JobCancelled
from ledger.events.timeline import record
from ledger.jobs.attempts import Ending, RetryRule, end_attempt, finish_attempt, record_timings, start_fallback
from ledger.jobs.claims import Claim, ClaimedJob, lock_claimed_job
from ledger.jobs.transitions import advance_job
from ledger.registry.lineage import record_erasure, set_served
from ledger.registry.references import ReferenceFile
from ledger.registry.retention import CleanFiles, hold_files, release_files
from ledger.states import AttemptOutcome, JobState, Phase, Reason, Verdict, VersionKind
from ledger.tables import Attempt, Job, Model, ModelVersion, Report
from ledger.transparency.commitments import Commitment, record_commitment
from report.document import Document


@dataclass(frozen=True, slots=True, kw_only=True)
class Publication:
    """What a job publishes.

    document: the report, with its ID, verdict and the digest of the weights. weights_path: the file's name in the storage.
    commitment: of the report's Merkle root; people: of its root over people, if anybody asked by name; both sealed. statement: the
    signed envelope. references: the file of reference predictions without the rows of this job's samples; without one a model that
    has references loses them, because its file cannot be read. utility_drop: points of merit that the version lost beyond what less
    data explains. checkpoints: the weights after slices of the training that may still be used, in place of those that the model's
    details list; None leaves these. signature: of the weights, for other tools (OpenSSF model signing).
    """

    document: Document
    weights_path: str
    commitment: Commitment | None = None
    people: Commitment | None = None
    statement: Mapping[str, Any] | None = None
    references: ReferenceFile | None = None
    utility_drop: float = 0.0
    checkpoints: Sequence[Mapping[str, Any]] | None = None
    signature: Mapping[str, Any] | None = None


def publish(session: Session, claim: Claim, result: Publication, *, timings: Mapping[str, float]) -> None:
    """Publish a result in the caller's transaction: version, report, erased samples, states and events.

    If the model's versions need approval, or this one lost more merit than the model allows, only the version and the report are
    written, and the job awaits approval. The files of its references and checkpoints become the model's when it is approved.
    timings: seconds by stage since the claim.
    A job publishes once: its claim is stale afterwards, and the database allows one version and one report for each job.
    Raises StaleClaim, JobCancelled if the job was cancelled first, and IllegalMove before the audit.
    """
    # The model is locked first, as in `claim`: otherwise a second message for this job and this publication could deadlock.
    model = session.get_one(Model, claim.model_id, with_for_update={"key_share": True}, populate_existing=True)
    job = lock_claimed_job(session, claim)
    if job.cancel_requested:
        raise JobCancelled(f"job {job.id} was cancelled before its result was published")
    version, report = _add_version(session, claim, result)
    if result.commitment is not None:
        record_commitment(session, job.id, result.commitment, result.people)
    replaced = None if claim.references is None else (claim.references, result.references)
    record_timings(session, job, timings)
    end_attempt(session, job, Ending(AttemptOutcome.PUBLISHED))
    data = {
        "verdict": report.verdict,
        "version": version.number,
        "report": report.id,
        "samples": len(claim.samples.forget),
    }
    record(session, "job.published", data, job_id=job.id)
    hold_files(version, model, CleanFiles(references=replaced, checkpoints=result.checkpoints))
    if model.approve_versions or result.utility_drop > model.approve_utility_drop:
        _await_approval(session, job, version, drop=result.utility_drop, allowed=model.approve_utility_drop)
    else:
        release_files(session, version)
        complete_job(session, job, version, data)


def _add_version(session: Session, claim: Claim, result: Publication) -> tuple[ModelVersion, Report]:
    """Write the rows of the version that a job has made, and of its report."""
    content = result.document.report
    version = ModelVersion(
        model_id=claim.model_id,
        number=claim.next_version,
        kind=VersionKind.UNLEARNED,
        weights_sha256=content.model.weights_after_sha256,
        weights_path=result.weights_path,
        job_id=claim.job_id,
        signature=None if result.signature is None else dict(result.signature),
    )
    session.add(version)
    session.flush()
    report = Report(
        id=UUID(content.report_id),
        tenant_id=claim.tenant_id,
        job_id=claim.job_id,
        version_id=version.id,
        verdict=Verdict(content.verdict.value),
        sha256=result.document.sha256,
        body=json.loads(result.document.content),
        statement=None if result.statement is None else dict(result.statement),
    )
    session.add(report)
    return version, report


def _await_approval(session: Session, job: Job, version: ModelVersion, *, drop: float, allowed: float) -> None:
    """Let a job wait until its version is approved. drop: points of merit that it lost; allowed: what the model allows."""
    why = (
        f"The version lost {drop:.1f} points of merit (accuracy for a classifier) beyond what less data explains; the model allows "
        f"{allowed:g}. Read its report, then approve or reject it."
    )
    advance_job(
        session,
        job.id,
        JobState.AWAITING_APPROVAL,
        data={"what": "version", "version": version.number},
        reason=Reason.UTILITY_DROP if drop > allowed else None,
        detail=why if drop > allowed else None,
        worker=None,
        lease_until=None,
        phase=Phase.PUBLISH,
        progress=1.0,
        eta_seconds=None,
        checkpoint=None,
    )


def record_publication_time(session: Session, claim: Claim, seconds: float) -> None:
    """Add to a job's timings what its publication took, in the publication's transaction, because the claim ends with it."""
    job = session.get_one(Job, claim.job_id)
    record_timings(session, job, {**job.timings, Phase.PUBLISH.value: seconds})


def complete_job(session: Session, job: Job, version: ModelVersion, data: Mapping[str, object]) -> None:
    """Serve the version that a locked job has made, and complete the job and its requests. `data` goes into the events."""
    record_erasure(session, job_id=job.id, version=version)
    set_served(session, version)
    advance_job(
        session,
        job.id,
        JobState.COMPLETED,
        data=data,
        worker=None,
        lease_until=None,
        phase=Phase.DONE,
        progress=1.0,
        eta_seconds=0.0,
        checkpoint=None,
    )


def escalate(
    session: Session,
    job: ClaimedJob,
    claim: Claim,
    *,
    finding: Mapping[str, Any],
    why: str,
    reason: Reason | None = None,
    timings: Mapping[str, float] | None = None,
) -> Claim:
    """Start the policy's next method under the same lease and the next attempt number. The old claim becomes stale.

    finding: why the last method's result was not published. why: the same as a sentence for the caller. reason: of an attempt that
    failed. timings: seconds by stage since the claim.
    """
    if timings is not None:
        record_timings(session, job, timings)
    end_attempt(
        session, job, Ending(AttemptOutcome.ESCALATED, reason, None if reason is None else why), finding=finding
    )
    start_fallback(session, job, why=why)
    following = replace(
        claim, attempt=job.attempt + 1, method=job.method, policy_index=job.policy_index, origin="policy"
    )
    job.attempt, job.tries = following.attempt, 1
    session.add(
        Attempt(
            job_id=job.id,
            number=job.attempt,
            method=job.method,
            worker=job.worker or "",
            timings_before=dict(job.timings),
        )
    )
    session.flush()
    if job.state == JobState.VERIFYING:
        advance_job(session, job.id, JobState.RUNNING, data={"method": job.method.get("kind")})
    return following


def fail(
    session: Session,
    job: ClaimedJob,
    *,
    reason: Reason,
    detail: str,
    rule: RetryRule | None = None,
) -> None:
    """End the attempt without a result. With a `rule` the job goes back to the queue while tries are left; otherwise it fails.

    The reason `cancelled_by_caller` cancels the job. `detail` is shown to callers: nothing personal, no trace.
    """
    cancelled = job.cancel_requested or reason == Reason.CANCELLED_BY_CALLER
    outcome = AttemptOutcome.CANCELLED if cancelled else AttemptOutcome.FAILED
    finish_attempt(session, job, Ending(outcome, reason, detail), rule=rule)
