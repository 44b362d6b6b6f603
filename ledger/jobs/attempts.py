"""Attempts: how one ends, and what becomes of its job."""

from collections.abc import Mapping
from typing import Any
from uuid import UUID

from sqlalchemy import update
from sqlalchemy.orm import Session

from ledger.db import now
from ledger.events.timeline import record
from ledger.jobs.transitions import advance_job
from ledger.states import AttemptOutcome, JobState, Phase, Reason
from ledger.tables import Attempt, Job


def record_timings(session: Session, job: Job, timings: Mapping[str, float]) -> None:
    """Record the seconds by stage since the claim: all of them on the job, this attempt's share on the attempt."""
    attempt = session.get_one(Attempt, (job.id, job.attempt))
    job.timings = dict(timings)
    attempt.timings = {stage: seconds - attempt.timings_before.get(stage, 0.0) for stage, seconds in timings.items()}


def finish_attempt(
    session: Session,
    job: Job,
    *,
    outcome: AttemptOutcome,
    reason: Reason | None,
    detail: str | None,
    max_tries: int | None,
) -> None:
    """End the current attempt at a locked job, and move the job.

    It is cancelled if that was requested, goes back to the queue while tries are left, and fails otherwise. `max_tries` None means
    that no further try is made.
    """
    if job.cancel_requested or reason == Reason.CANCELLED_BY_CALLER:
        _end(session, job, JobState.CANCELLED, outcome=outcome, reason=Reason.CANCELLED_BY_CALLER, detail=detail)
        return
    if max_tries is not None and job.tries < max_tries:
        requeue(session, job, outcome=outcome, reason=reason, detail=detail, tries=job.tries)
        return
    expired = outcome is AttemptOutcome.EXPIRED
    _end(
        session,
        job,
        JobState.FAILED,
        outcome=outcome,
        reason=Reason.ATTEMPTS_EXHAUSTED if expired else reason,
        detail=detail,
    )


def _end(
    session: Session, job: Job, to: JobState, *, outcome: AttemptOutcome, reason: Reason | None, detail: str | None
) -> None:
    end_attempt(session, job, outcome=outcome, reason=reason, detail=detail)
    advance_job(
        session,
        job.id,
        to,
        reason=reason,
        detail=detail,
        worker=None,
        lease_until=None,
        eta_seconds=None,
        checkpoint=None,
    )


def requeue(
    session: Session, job: Job, *, outcome: AttemptOutcome, reason: Reason | None, detail: str | None, tries: int
) -> None:
    """End the current attempt at a locked job, and put the job back into the queue under the next attempt number."""
    end_attempt(session, job, outcome=outcome, reason=reason, detail=detail)
    advance_job(
        session,
        job.id,
        JobState.QUEUED,
        data={"reason": reason or outcome, "detail": detail},
        attempt=job.attempt + 1,
        tries=tries,
        worker=None,
        lease_until=None,
        phase=Phase.WAITING,
        progress=0.0,
        step=0,
        total=0,
        eta_seconds=None,
        # The cause of an unexpected error may lie in the checkpoint.
        checkpoint=None if reason is Reason.UNEXPECTED else job.checkpoint,
    )


def end_attempt(
    session: Session,
    job: Job,
    *,
    outcome: AttemptOutcome,
    reason: Reason | None = None,
    detail: str | None = None,
    finding: Mapping[str, Any] | None = None,
) -> None:
    """Record how the current attempt at a locked job ended."""
    attempt = session.get_one(Attempt, (job.id, job.attempt))
    attempt.outcome, attempt.reason, attempt.detail = outcome, reason, detail
    attempt.finding = dict(finding) if finding is not None else None
    attempt.finished_at = now(session)


def count_refused_write(session: Session, job_id: UUID, number: int) -> None:
    """Count a refused write of an attempt whose lease has expired. The first one is put on the timeline.

    An attempt that ended otherwise is not counted: a renewal of its lease may come a moment late.
    """
    expired = (Attempt.job_id == job_id) & (Attempt.number == number)
    expired &= Attempt.outcome.is_(None) | (Attempt.outcome == AttemptOutcome.EXPIRED)
    more = update(Attempt).where(expired).values(refused_writes=Attempt.refused_writes + 1)
    if session.scalar(more.returning(Attempt.refused_writes)) == 1:
        record(session, "job.write_refused", {"attempt": number}, job_id=job_id)
