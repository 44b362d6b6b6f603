"""Retention of weights. Superseded versions still know the people whom a later version has forgotten, so their files are purged.

The row of a version stays for ever, with its digest, because reports name it.
"""

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

from sqlalchemy import func, select, update
from sqlalchemy.orm import Session, aliased

from ledger.db import now
from ledger.registry.models import CHECKPOINTS
from ledger.tables import Job, Model, ModelVersion, ReferenceSet


@dataclass(frozen=True, slots=True, kw_only=True)
class SupersededVersion:
    """A version that is not served and that no open job needs, and the time since which a later version exists."""

    version_id: UUID
    model: str
    number: int
    weights_path: str
    since: datetime


def list_superseded(session: Session, *, older_than: timedelta) -> list[SupersededVersion]:
    """List the versions whose weights may be purged: superseded for longer than `older_than`, oldest first.

    The served version, versions that may yet be served (newer and not refused) and those that an open job starts from are kept.
    """
    served, later = aliased(ModelVersion), aliased(ModelVersion)
    followed = select(func.min(later.created_at)).where(
        later.model_id == ModelVersion.model_id, later.number > ModelVersion.number
    )
    since = func.coalesce(ModelVersion.refused_at, followed.scalar_subquery())
    needed = select(Job.base_version_id).where(Job.finished_at.is_(None), Job.base_version_id.is_not(None))
    found = (
        select(ModelVersion.id, Model.name, ModelVersion.number, ModelVersion.weights_path, since)
        .join(Model, Model.id == ModelVersion.model_id)
        .join(served, served.id == Model.served_version_id)
        .where(
            ModelVersion.purged_at.is_(None),
            ModelVersion.id != served.id,
            ModelVersion.refused_at.is_not(None) | (ModelVersion.number < served.number),
            ModelVersion.id.not_in(needed),
            since < now(session) - older_than,
        )
        .order_by(since, ModelVersion.number)
    )
    return [
        SupersededVersion(version_id=version_id, model=name, number=number, weights_path=path, since=at)
        for version_id, name, number, path, at in session.execute(found)
    ]


def mark_purged(session: Session, version_ids: Collection[UUID], *, older_than: timedelta) -> list[str]:
    """Mark versions as purged, and list the files that no version needs any more. Delete these after the commit.

    The check whether they may be purged is repeated under the models' locks: one may have been promoted since it was listed.
    """
    models = select(Model).where(Model.id.in_(select(ModelVersion.model_id).where(ModelVersion.id.in_(version_ids))))
    session.execute(models.order_by(Model.id).with_for_update(key_share=True))
    purged = {version.version_id for version in list_superseded(session, older_than=older_than)} & set(version_ids)
    marked = update(ModelVersion).where(ModelVersion.id.in_(purged)).values(purged_at=func.clock_timestamp())
    session.execute(marked.execution_options(synchronize_session=False))
    paths = set(session.scalars(select(ModelVersion.weights_path).where(ModelVersion.id.in_(purged))))
    return sorted(paths - needed_files(session))


def needed_files(session: Session) -> set[str]:
    """List the names of the files that must be kept: of weights, also after slices of a training, and of reference predictions.

    Two versions may share a file, as its name is the digest.
    """
    weights = session.scalars(select(ModelVersion.weights_path).where(ModelVersion.purged_at.is_(None)))
    kept = session.scalars(select(Model.details[CHECKPOINTS]).where(Model.details.has_key(CHECKPOINTS)))
    checkpoints = (str(entry["path"]) for entries in kept for entry in entries)
    return {*weights, *session.scalars(select(ReferenceSet.path)), *checkpoints}
