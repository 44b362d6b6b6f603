"""What workers report of themselves: when they were last seen, what room their storage has, and which models they can build.

A worker that runs a job renews its lease, and the parent process of each records that it is there. If neither has happened lately,
the workers are down. A check finds out whether a worker, in its own environment, can build a registered model and load its weights.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import exists, func, or_, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session, aliased

from ledger.db import now
from ledger.states import LEASED
from ledger.tables import Heartbeat, Job, Model, ModelVersion

WORKER = "sweep"
"""The heartbeat of a worker's parent process, stored under its former name."""

STORAGE = "storage"
"""The heartbeat of a worker that has measured the room in its storage, in bytes: `free` and `size`."""

STORAGE_MEASURE_LIFETIME = timedelta(hours=1)
"""How long a measure of the storage counts. After that, no worker has measured it for so long that nothing is known."""

CHECK_MODEL = "expunge.check_model"
"""The name of the worker's task, which takes a model's id."""

CHECK_LIMIT = timedelta(minutes=10)
"""How long after its start a check that has not ended is given up and its process ended: a job may be waiting."""

REPEATED_AFTER = timedelta(hours=1)
"""How long after a check that failed the next one follows, and after the message of one that did not start, which may be lost."""


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


@dataclass(frozen=True, kw_only=True, slots=True)
class Checked:
    """What a worker needs to build a model: its workload and details, and the file of the served weights by their SHA-256."""

    name: str
    workload: str
    details: dict[str, Any]
    weights_path: str
    weights_sha256: str


def ask_for_check(session: Session, *, since: datetime) -> UUID | None:
    """Choose the next model that a worker which started at `since` is to check, and note that it was asked for; or return None.

    Due are the models that nobody has asked for yet, and those whose check failed or did not end before that worker started: what
    it was started with may differ. Those that failed are asked for again each hour, because a factory may have been mended.
    One at a time: no other is chosen while a check that was asked for since then has not ended, so that a job waits for one factory
    that hangs at most. Of two workers that call this at once, one gets the model.
    """
    now, other = func.clock_timestamp(), aliased(Model)
    waiting = other.check_started_at.is_(None) & (other.check_asked_at > now - REPEATED_AFTER)
    running = other.check_started_at > now - CHECK_LIMIT
    under_way = select(other.id).where(
        other.check_ended_at.is_(None), other.check_asked_at >= since, or_(waiting, running)
    )
    failed, open_ = Model.check_fault.is_not(None), Model.check_ended_at.is_(None)
    lost = open_ & Model.check_started_at.is_(None)
    due = or_(
        Model.check_asked_at.is_(None),
        or_(failed, open_) & (Model.check_asked_at < since),
        or_(failed, lost) & (Model.check_asked_at < now - REPEATED_AFTER),
    )
    # A model that is just being changed has time until the next call.
    free = select(Model.id).where(due, ~under_way.exists()).order_by(Model.check_asked_at.nulls_first()).limit(1)
    chosen = update(Model).where(Model.id == free.with_for_update(key_share=True, skip_locked=True).scalar_subquery())
    values = {"check_asked_at": now, "check_started_at": None, "check_ended_at": None, "check_fault": None}
    return session.scalar(chosen.values(values).returning(Model.id))


def withdraw_check(session: Session, model_id: UUID) -> None:
    """Note that no worker was asked after all, so that the model is due again."""
    session.execute(update(Model).where(Model.id == model_id).values(check_asked_at=None))


def start_check(session: Session, model_id: UUID) -> None:
    """Record that a worker begins to check a model."""
    session.execute(update(Model).where(Model.id == model_id).values(check_started_at=func.clock_timestamp()))


def find_to_check(session: Session, model_id: UUID) -> Checked | None:
    """Read what a check of a model needs; None if there is no such model."""
    found = session.execute(
        select(Model.name, Model.workload, Model.details, ModelVersion.weights_path, ModelVersion.weights_sha256)
        .join(ModelVersion, ModelVersion.id == Model.served_version_id)
        .where(Model.id == model_id)
    ).one_or_none()
    return None if found is None else Checked(**found._mapping)


def record_check(session: Session, model_id: UUID, *, fault: str | None) -> None:
    """Record that a check has ended, and what it found; None if the worker can build the model."""
    ended = update(Model).where(Model.id == model_id)
    session.execute(ended.values(check_ended_at=func.clock_timestamp(), check_fault=fault))
