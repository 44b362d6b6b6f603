"""Heartbeats: when workers were last seen, to tell an idle worker from one that is gone.

A worker that runs a job renews its lease, and an idle one runs the beat's sweeps. If neither has happened lately, the worker, the
beat or the broker is down.
"""

from datetime import datetime, timedelta

from sqlalchemy import exists, func, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from ledger.db import now
from ledger.states import LEASED
from ledger.tables import Heartbeat, Job

SWEEP = "sweep"
"""The heartbeat of a worker that has run a sweep."""


def record_heartbeat(session: Session, name: str) -> None:
    """Record that a recurring act happened now. Use a transaction of its own: others that record the same act wait for its end."""
    heartbeat = insert(Heartbeat).values(name=name)
    session.execute(heartbeat.on_conflict_do_update(index_elements=["name"], set_={"at": func.clock_timestamp()}))


def was_seen_within(session: Session, name: str, time: timedelta) -> bool:
    """Tell whether a recurring act happened within the last `time`, by the database's clock."""
    recent = exists().where(Heartbeat.name == name, Heartbeat.at > func.clock_timestamp() - time)
    return bool(session.scalar(select(recent)))


def worker_last_seen(session: Session) -> datetime | None:
    """Give the time when a worker was last seen: now while one holds a lease, else its last sweep, None before the first."""
    leased = exists().where(Job.state.in_(LEASED), Job.lease_until > func.clock_timestamp())
    if session.scalar(select(leased)):
        return now(session)
    return session.scalar(select(Heartbeat.at).where(Heartbeat.name == SWEEP))
