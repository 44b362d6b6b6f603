"""The outbox of wake-ups. A transaction that makes a job ready writes one; it is sent after the commit, at least once.

A sender first takes entries, in a transaction of its own, so that none is open during network calls. It deletes the entries that
it has sent. The others become due again after `VISIBILITY_TIMEOUT`, even if the sender dies. The sweep is an independent fallback
for lost wake-ups.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

from sqlalchemy import case, delete, func, select, tuple_, update
from sqlalchemy.dialects.postgresql import Insert, insert
from sqlalchemy.orm import Session

from ledger.states import JobState
from ledger.tables import Job, OutboxEntry

RUN_JOB = "expunge.run_job"
"""The Celery task that runs a job if it can be claimed. Its argument is the job's id as a string."""

VISIBILITY_TIMEOUT = timedelta(seconds=30)
"""How long a taken entry is hidden from other senders. An entry that is not deleted by then is sent again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wakeup:
    """A taken entry: wake this job. `hidden_until` tells it from a later announcement of the same job."""

    entry_id: int
    job_id: UUID
    hidden_until: datetime


def announce_wakeup(session: Session, job_id: UUID, *, at: datetime | None = None) -> None:
    """Wake a job once this transaction has committed, but not before `at`. Of two announcements the earlier counts."""
    session.execute(_earlier(insert(OutboxEntry).values(job_id=job_id, available_at=at or func.clock_timestamp())))


def announce_next(session: Session, model_id: UUID) -> None:
    """Wake the first queued job of a free model: at its closing time if it still takes requests, and after its wait."""
    closed = case((Job.closed_at.is_not(None), None), else_=Job.closes_at)
    ready_at = func.greatest(closed, Job.retry_at, func.clock_timestamp())  # a null does not count
    waits = func.coalesce(Job.retry_at > func.clock_timestamp(), False)
    queued = select(Job.id, ready_at).where(Job.model_id == model_id, Job.state == JobState.QUEUED)
    first = queued.order_by(waits, Job.closes_at, Job.id).limit(1)
    session.execute(_earlier(insert(OutboxEntry).from_select(["job_id", "available_at"], first)))


def _earlier(entry: Insert) -> Insert:
    soonest = func.least(OutboxEntry.available_at, entry.excluded.available_at)
    return entry.on_conflict_do_update(index_elements=[OutboxEntry.job_id], set_={"available_at": soonest})


def take_wakeups(session: Session, *, job_ids: Collection[UUID] | None = None, limit: int = 200) -> list[Wakeup]:
    """Take the entries that are due, of these jobs or of all, and hide them from others. Send them after the commit."""
    due = select(OutboxEntry.id).where(OutboxEntry.available_at <= func.clock_timestamp())
    if job_ids is not None:
        due = due.where(OutboxEntry.job_id.in_(job_ids))
    # As a common table expression this runs once. The planner may run a subquery with a limit once for each row.
    mine = due.order_by(OutboxEntry.available_at).limit(limit).with_for_update(skip_locked=True).cte("mine")
    taken = (
        update(OutboxEntry)
        .where(OutboxEntry.id == mine.c.id)
        .values(available_at=func.clock_timestamp() + VISIBILITY_TIMEOUT)
        .returning(OutboxEntry.id, OutboxEntry.job_id, OutboxEntry.available_at)
        .execution_options(synchronize_session=False)
    )
    return [
        Wakeup(entry_id=entry_id, job_id=job_id, hidden_until=hidden_until)
        for entry_id, job_id, hidden_until in session.execute(taken)
    ]


def delete_sent_wakeups(session: Session, sent: Sequence[Wakeup]) -> None:
    """Delete the entries that were sent, except those whose job was announced again in the meantime.

    An entry that is being announced at this moment is skipped rather than waited for: two transactions that wait for each other's
    entries would never end.
    """
    done = tuple_(OutboxEntry.id, OutboxEntry.available_at).in_([(w.entry_id, w.hidden_until) for w in sent])
    mine = select(OutboxEntry.id).where(done).with_for_update(skip_locked=True).cte("mine")
    session.execute(delete(OutboxEntry).where(OutboxEntry.id == mine.c.id).execution_options(synchronize_session=False))
