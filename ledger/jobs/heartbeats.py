"""Heartbeats: when workers were last seen, to tell an idle worker from one that is gone, and what room their storage has.

A worker that runs a job renews its lease, and the parent process of each records that it is there. If neither has happened lately,
the workers are down.
"""

from collections.abc import Mapping
from datetime import datetime, timedelta

from sqlalchemy import exists, func, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from ledger.db import now
from ledger.states import LEASED
from ledger.tables import Heartbeat, Job

WORKER = "sweep"
"""The heartbeat of a worker's parent process, stored under its former name."""

STORAGE = "storage"
"""The heartbeat of a worker that has measured the room in its storage, in bytes: `free` and `size`."""

STORAGE_MEASURE_LIFETIME = timedelta(hours=1)
"""How long a measure of the storage counts. After that, no worker has measured it for so long that nothing is known."""


def record_heartbeat(session: Session, name: str, details: Mapping[str, int] | None = None) -> None:
    """Record that a recurring act happened now, and what it measured.

    Use a transaction of its own: others that record the same act wait for its end.
    """
    heartbeat = insert(Heartbeat).values(name=name, details=None if details is None else dict(details))
    changed = {"at": func.clock_timestamp(), "details": heartbeat.excluded.details}
    session.execute(heartbeat.on_conflict_do_update(index_elements=["name"], set_=changed))


def storage_room(session: Session) -> tuple[int, int] | None:
    """Give the free bytes and the size in bytes of the workers' storage; None if no worker has measured it lately."""
    recent = Heartbeat.at > func.clock_timestamp() - STORAGE_MEASURE_LIFETIME
    found = session.scalar(select(Heartbeat.details).where(Heartbeat.name == STORAGE, recent))
    return None if found is None else (found["free"], found["size"])


def was_seen_within(session: Session, name: str, time: timedelta) -> bool:
    """Tell whether a recurring act happened within the last `time`, by the database's clock."""
    recent = exists().where(Heartbeat.name == name, Heartbeat.at > func.clock_timestamp() - time)
    return bool(session.scalar(select(recent)))


def worker_last_seen(session: Session) -> datetime | None:
    """Give the time when a worker was last seen: now while one holds a lease, else at its last heartbeat, None before the first."""
    leased = exists().where(Job.state.in_(LEASED), Job.lease_until > func.clock_timestamp())
    if session.scalar(select(leased)):
        return now(session)
    return session.scalar(select(Heartbeat.at).where(Heartbeat.name == WORKER))
