"""Signs of life of the workers: without them nobody could tell a worker that waits from one that is gone.

A worker that runs a job renews its lease; one that waits obeys the beat's sweeps. So a worker lives that did either lately, and
a sweep that did not happen says that worker, beat or broker is away.
"""

from datetime import datetime, timedelta

from sqlalchemy import exists, func, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from ledger.db import now
from ledger.states import LEASED
from ledger.tables import Heartbeat, Job

SWEEP = "sweep"
"""A worker has obeyed a sweep."""


def record_heartbeat(session: Session, name: str) -> None:
    """Note that something recurring happened now. In a transaction of its own: whoever notes the same waits for its end."""
    noted = insert(Heartbeat).values(name=name)
    session.execute(noted.on_conflict_do_update(index_elements=["name"], set_={"at": func.clock_timestamp()}))


def was_seen_within(session: Session, name: str, time: timedelta) -> bool:
    """Whether it happened within so much time up to now, by the database's clock."""
    recent = exists().where(Heartbeat.name == name, Heartbeat.at > func.clock_timestamp() - time)
    return bool(session.scalar(select(recent)))


def worker_last_seen(session: Session) -> datetime | None:
    """When a worker last gave a sign of life: now, while one holds a lease; else its last sweep; None before the first."""
    leased = exists().where(Job.state.in_(LEASED), Job.lease_until > func.clock_timestamp())
    if session.scalar(select(leased)):
        return now(session)
    return session.scalar(select(Heartbeat.at).where(Heartbeat.name == SWEEP))
