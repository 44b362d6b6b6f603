"""Checks: whether a worker, in its own environment, can build each registered model and load its weights."""

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

from sqlalchemy import func, or_, select, update
from sqlalchemy.orm import Session

from ledger.tables import Model, ModelVersion

CHECK_MODEL = "expunge.check_model"
"""The name of the worker's task, which takes a model's id."""

REPEATED_AFTER = timedelta(hours=1)
"""How long after a check that failed the next one follows."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Checked:
    """What a worker needs to build a model: its workload, and the file of the served weights by their SHA-256."""

    name: str
    workload: str
    weights_path: str
    weights_sha256: str


def ask_for_checks(session: Session, *, since: datetime) -> list[UUID]:
    """Choose the models that a worker which started at `since` is to check, and note that they were asked for.

    These are the models that nobody has asked for yet, and those whose check failed or did not end before that worker started:
    what it was started with may differ. Those that failed are asked for again each hour, because a factory may have been mended.
    Of two workers that call this at once, one gets each model.
    """
    unsettled = or_(Model.check_ended_at.is_(None), Model.check_fault.is_not(None))
    failed_earlier = Model.check_fault.is_not(None) & (Model.check_asked_at < func.clock_timestamp() - REPEATED_AFTER)
    due = or_(Model.check_asked_at.is_(None), unsettled & (Model.check_asked_at < since), failed_earlier)
    # A model that is just being changed has time until the next call: waiting for several could be a deadlock.
    free = select(Model.id).where(due).with_for_update(key_share=True, skip_locked=True)
    asked = update(Model).where(Model.id.in_(free.scalar_subquery()))
    values = {"check_asked_at": func.clock_timestamp(), "check_ended_at": None, "check_fault": None}
    return list(session.scalars(asked.values(values).returning(Model.id)))


def withdraw_checks(session: Session, model_ids: Collection[UUID]) -> None:
    """Note that no worker was asked after all, so that the next call of `ask_for_checks` chooses these models again."""
    session.execute(update(Model).where(Model.id.in_(model_ids)).values(check_asked_at=None))


def find_to_check(session: Session, model_id: UUID) -> Checked | None:
    """Read what a check of a model needs; None if there is no such model."""
    found = session.execute(
        select(Model.name, Model.workload, ModelVersion.weights_path, ModelVersion.weights_sha256)
        .join(ModelVersion, ModelVersion.id == Model.served_version_id)
        .where(Model.id == model_id)
    ).one_or_none()
    return None if found is None else Checked(**found._mapping)


def record_check(session: Session, model_id: UUID, *, fault: str | None) -> None:
    """Record that a check has ended, and what it found; None if the worker can build the model."""
    ended = update(Model).where(Model.id == model_id)
    session.execute(ended.values(check_ended_at=func.clock_timestamp(), check_fault=fault))
