"""The outbox of wake-ups: written in the transaction that makes a job ready, sent after its commit, at least once.

Whoever sends takes entries first: they are his for a while, in a transaction of its own, so that none is open while the network
is waited for. What he has sent he settles; what he has not comes up again by itself, also when he dies. The sweep wakes every job
that is due as well: two nets, because neither knows all the faults of the other.
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

VISIBILITY_TIMEOUT = timedelta(seconds=30)
"""How long an entry is its taker's; one that was not settled by then is sent again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wakeup:
    """An entry that was taken: wake this job. `held_until` tells it from a later announcement of the same job."""

    entry_id: int
    job_id: UUID
    held_until: datetime


def announce_wakeup(session: Session, job_id: UUID, *, at: datetime | None = None) -> None:
    """Have a job woken once this transaction has committed, not before `at`. Of two announcements the earlier counts."""
    session.execute(_earlier(insert(OutboxEntry).values(job_id=job_id, available_at=at or func.clock_timestamp())))


def announce_next(session: Session, model_id: UUID) -> None:
    """Have the first of a model's queued jobs woken, at its cut-off: the model has just become free."""
    ready_at = case(
        (Job.closed_at.is_not(None), func.clock_timestamp()), else_=func.greatest(Job.closes_at, func.clock_timestamp())
    )
    queued = select(Job.id, ready_at).where(Job.model_id == model_id, Job.state == JobState.QUEUED)
    first = queued.order_by(Job.closes_at, Job.id).limit(1)
    session.execute(_earlier(insert(OutboxEntry).from_select(["job_id", "available_at"], first)))


def _earlier(entry: Insert) -> Insert:
    soonest = func.least(OutboxEntry.available_at, entry.excluded.available_at)
    return entry.on_conflict_do_update(index_elements=[OutboxEntry.job_id], set_={"available_at": soonest})


def take_wakeups(session: Session, *, job_ids: Collection[UUID] | None = None, limit: int = 200) -> list[Wakeup]:
    """Take the entries that are due, of these jobs or of all; nobody else gets them for `HOLD`. Send them after the commit."""
    due = select(OutboxEntry.id).where(OutboxEntry.available_at <= func.clock_timestamp())
    if job_ids is not None:
        due = due.where(OutboxEntry.job_id.in_(job_ids))
    # As a common table expression it runs once: the planner may run a subquery with a limit once a row.
    mine = due.order_by(OutboxEntry.available_at).limit(limit).with_for_update(skip_locked=True).cte("mine")
    taken = (
        update(OutboxEntry)
        .where(OutboxEntry.id == mine.c.id)
        .values(available_at=func.clock_timestamp() + VISIBILITY_TIMEOUT)
        .returning(OutboxEntry.id, OutboxEntry.job_id, OutboxEntry.available_at)
        .execution_options(synchronize_session=False)
    )
    return [
        Wakeup(entry_id=entry_id, job_id=job_id, held_until=held_until)
        for entry_id, job_id, held_until in session.execute(taken)
    ]


def delete_sent_wakeups(session: Session, sent: Sequence[Wakeup]) -> None:
    """Strike out what was sent, except where the job was announced again after it had been taken.

    An entry that is being announced at this moment is left, not waited for: two that wait for each other's entries would never end.
    """
    done = tuple_(OutboxEntry.id, OutboxEntry.available_at).in_([(w.entry_id, w.held_until) for w in sent])
    mine = select(OutboxEntry.id).where(done).with_for_update(skip_locked=True).cte("mine")
    session.execute(delete(OutboxEntry).where(OutboxEntry.id == mine.c.id).execution_options(synchronize_session=False))


RUN_JOB = "expunge.run_job"
"""Run this job if it can be claimed; one argument, the job's id as a string."""

SWEEP = "expunge.sweep"
"""Take back lapsed leases and wake the jobs that are due; no argument."""
