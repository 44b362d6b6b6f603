"""Which weights need not be kept any longer. Those of superseded versions still know whom a later version has forgotten.

The row of a version stays for ever, with its digest: reports name it. Only the file goes.
"""

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

from sqlalchemy import func, select, update
from sqlalchemy.orm import Session, aliased

from ledger import resources
from ledger.db import now
from ledger.registry.models import list_versions
from ledger.states import Verdict
from ledger.tables import Job, Model, ModelVersion, Report
from ledger.tables.samples import erased_samples


@dataclass(frozen=True, slots=True, kw_only=True)
class SupersededVersion:
    """A version that nobody serves and no open job needs, and since when another has followed it."""

    version_id: UUID
    model: str
    number: int
    weights_path: str
    since: datetime


def list_superseded(session: Session, *, older_than: timedelta) -> list[SupersededVersion]:
    """The versions whose weights may go: followed by another for longer than that, and not purged yet; oldest first.

    Never the served version, one that may yet be served (newer, and not refused), or one that an open job began with.
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
    """Give these versions up, and get the names of the files that nothing needs any more. Delete those after the commit.

    Whether they may go is asked again under the models' locks: one may have been promoted since it was listed.
    """
    models = select(Model).where(Model.id.in_(select(ModelVersion.model_id).where(ModelVersion.id.in_(version_ids))))
    session.execute(models.order_by(Model.id).with_for_update(key_share=True))
    going = {version.version_id for version in list_superseded(session, older_than=older_than)} & set(version_ids)
    marked = update(ModelVersion).where(ModelVersion.id.in_(going)).values(purged_at=func.clock_timestamp())
    session.execute(marked.execution_options(synchronize_session=False))
    paths = set(session.scalars(select(ModelVersion.weights_path).where(ModelVersion.id.in_(going))))
    return sorted(paths - needed_files(session))


def needed_files(session: Session) -> set[str]:
    """The names of the weights that the storage must hold. Two versions may share a file: the digest is its name."""
    return set(session.scalars(select(ModelVersion.weights_path).where(ModelVersion.purged_at.is_(None))))


@dataclass(frozen=True, slots=True, kw_only=True)
class Forgotten:
    """A version, how many samples it was made to forget, and what its audit found."""

    version: resources.Version
    samples: int
    verdict: Verdict | None


def list_forgotten(session: Session, *, tenant_id: UUID, model: str) -> list[Forgotten]:
    """All versions of a model, newest first. Raises UnknownModel."""
    versions = list_versions(session, tenant_id=tenant_id, model=model)
    ids = [version.id for version in versions]
    counted = select(erased_samples.c.version_id, func.count()).where(erased_samples.c.version_id.in_(ids))
    found = select(Report.version_id, Report.verdict).where(Report.version_id.in_(ids))
    first: dict[UUID, int] = dict(session.execute(counted.group_by(erased_samples.c.version_id)).all())
    verdicts = dict(session.execute(found).all())
    return [
        Forgotten(version=version, samples=first.get(version.id, 0), verdict=verdicts.get(version.id))
        for version in versions
    ]
