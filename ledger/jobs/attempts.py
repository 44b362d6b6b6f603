"""Attempts: how one ends, and what becomes of its job."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from ledger.db import now
from ledger.events.outbox import announce_wakeup
from ledger.events.timeline import record
from ledger.jobs.estimates import method_seconds
from ledger.jobs.transitions import advance_job
from ledger.states import AUDIT_PHASES, AttemptOutcome, JobState, Phase, Reason
from ledger.tables import Attempt, Job
from report.formatting import duration

FALLBACK_PHASES = {
    Reason.OUT_OF_MEMORY: tuple(Phase),
    Reason.STALLED: (Phase.UNLEARN,),
    Reason.UNEXPECTED: (Phase.UNLEARN, *AUDIT_PHASES),
}
"""The failures after which, when no try of a method is left, the next method may fare better, and the phases in which it may: it
needs other memory and time, and runs other code, but every method loads and publishes the same."""

ONCE_MORE = frozenset({Reason.UNEXPECTED, Reason.STALLED})
"""Failures that are tried once more and no oftener while a method gets no further: they seldom pass."""

WAIT_GROWTH, MAX_RETRY_WAIT = 4, timedelta(minutes=15)
"""Each wait before a retry is so many times the one before, up to the longest."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryRule:
    """How often one method of a job is tried while it gets no further, and how long the job waits before its first retry.

    The waits grow while it gets no further.
    """

    max_tries: int
    first_wait: timedelta = timedelta(0)


@dataclass(frozen=True, slots=True)
class Ending:
    """How an attempt ends, the reason's code, and the detail for callers: nothing personal, no trace."""

    outcome: AttemptOutcome
    reason: Reason | None = None
    detail: str | None = None


def retry_wait(tries: int, *, first: timedelta) -> timedelta:
    """Return how long a job waits after so many tries without progress: `first` after the first, then growing."""
    grown: timedelta = first * WAIT_GROWTH ** max(0, min(tries, 10) - 1)
    return min(grown, MAX_RETRY_WAIT)


def record_timings(session: Session, job: Job, timings: Mapping[str, float]) -> None:
    """Record the seconds by stage since the claim: all of them on the job, this attempt's share on the attempt."""
    attempt = session.get_one(Attempt, (job.id, job.attempt))
    job.timings = dict(timings)
    attempt.timings = {stage: seconds - attempt.timings_before.get(stage, 0.0) for stage, seconds in timings.items()}


def finish_attempt(session: Session, job: Job, ending: Ending, *, rule: RetryRule | None) -> None:
    """End the current attempt at a locked job, and move the job.

    It is cancelled if that was requested, and goes back to the queue while tries are left, or with the next method of its policy
    after a failure in FALLBACK_PHASES. Otherwise it fails. `rule` None means that no further try is made; of the failures in
    ONCE_MORE the second of a kind is the last, whatever else ended the tries between.
    """
    reason, expired = ending.reason, ending.outcome is AttemptOutcome.EXPIRED
    if job.cancel_requested or reason == Reason.CANCELLED_BY_CALLER:
        _end(session, job, JobState.CANCELLED, replace(ending, reason=Reason.CANCELLED_BY_CALLER))
        return
    if (
        rule is not None
        and job.tries < rule.max_tries
        and not (reason in ONCE_MORE and _came_before(session, job, reason))
    ):
        # A lost lease was waited for already, and a machine that dies once is no sign of more.
        counted = job.tries - 1 if expired else max(job.tries, 1)
        wait = retry_wait(counted, first=rule.first_wait) if counted > 0 else timedelta(0)
        requeue(session, job, ending, tries=job.tries, wait=wait)
        return
    following = job.policy[job.policy_index + 1 :]
    if following and rule is not None and reason in FALLBACK_PHASES and job.phase in FALLBACK_PHASES[reason]:
        start_fallback(session, job, why=ending.detail or str(reason))
        requeue(session, job, ending, tries=0)
        return
    _end(session, job, JobState.FAILED, replace(ending, reason=Reason.ATTEMPTS_EXHAUSTED) if expired else ending)


def _came_before(session: Session, job: Job, reason: Reason | None) -> bool:
    """Return whether an earlier try of the job's method ended for the same reason since it last got further."""
    earlier = select(Attempt.number).where(
        Attempt.job_id == job.id,
        Attempt.number > job.attempt - job.tries,
        Attempt.number < job.attempt,
        Attempt.reason == reason,
    )
    return session.scalar(select(earlier.exists())) or False


def _end(session: Session, job: Job, to: JobState, ending: Ending) -> None:
    end_attempt(session, job, ending)
    advance_job(
        session,
        job.id,
        to,
        reason=ending.reason,
        detail=ending.detail,
        worker=None,
        lease_until=None,
        eta_seconds=None,
        checkpoint=None,
    )


def requeue(session: Session, job: Job, ending: Ending, *, tries: int, wait: timedelta = timedelta(0)) -> None:
    """End the current attempt at a locked job, and put the job back into the queue under the next attempt number.

    wait: how long it may not be claimed.
    """
    end_attempt(session, job, ending)
    retry_at = now(session) + wait if wait else None
    why = {"reason": ending.reason or ending.outcome, "detail": ending.detail}
    advance_job(
        session,
        job.id,
        JobState.QUEUED,
        data=why if retry_at is None else {**why, "retry_at": retry_at},
        attempt=job.attempt + 1,
        tries=tries,
        retry_at=retry_at,
        worker=None,
        lease_until=None,
        phase=Phase.WAITING,
        progress=0.0,
        step=0,
        total=0,
        eta_seconds=None,
        # The cause of an unexpected error may lie in the checkpoint.
        checkpoint=None if ending.reason is Reason.UNEXPECTED else job.checkpoint,
    )
    announce_wakeup(session, job.id, at=retry_at)


def start_fallback(session: Session, job: Job, *, why: str) -> None:
    """Give a locked job the next method of its policy, and record why. The caller ends the attempt.

    why: a sentence for the caller, with nothing personal.
    """
    before, method = job.method.get("kind"), job.policy[job.policy_index + 1]
    seconds = method_seconds(session, job.model_id, str(method.get("kind")))
    job.method, job.policy_index, job.checkpoint, job.furthest_step = dict(method), job.policy_index + 1, None, 0
    job.fallback = {"after": before, "why": why, "seconds": seconds, "at": now(session).isoformat()}
    record(session, "job.escalated", {"method": before, "attempt": job.attempt}, job_id=job.id)
    time = "a time that is not known yet" if seconds is None else f"about {duration(seconds)}"
    data = {"method": method.get("kind"), "after": before, "why": why, "seconds": seconds, "time": time}
    record(session, "job.fallback", data, job_id=job.id)


def end_attempt(session: Session, job: Job, ending: Ending, *, finding: Mapping[str, Any] | None = None) -> None:
    """Record how the current attempt at a locked job ended."""
    attempt = session.get_one(Attempt, (job.id, job.attempt))
    attempt.outcome, attempt.reason, attempt.detail = ending.outcome, ending.reason, ending.detail
    attempt.finding = dict(finding) if finding is not None else None
    attempt.finished_at = now(session)


def count_refused_write(session: Session, job_id: UUID, number: int) -> None:
    """Count a refused write of an attempt whose lease has expired. The first one is put on the timeline.

    An attempt that ended otherwise is not counted: a renewal of its lease may come a moment late.
    """
    # Under the job's lock, as all that is on its timeline; and before the attempt's, as everyone takes them.
    session.execute(select(Job.id).where(Job.id == job_id).with_for_update(key_share=True))
    expired = (Attempt.job_id == job_id) & (Attempt.number == number)
    expired &= Attempt.outcome.is_(None) | (Attempt.outcome == AttemptOutcome.EXPIRED)
    more = update(Attempt).where(expired).values(refused_writes=Attempt.refused_writes + 1)
    if session.scalar(more.returning(Attempt.refused_writes)) == 1:
        record(session, "job.write_refused", {"attempt": number}, job_id=job_id)
