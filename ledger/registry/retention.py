"""Retention of weights: where the copies of a version went, which of them know people who were erased since, and what is purged.

Superseded versions still know the people whom a later version has forgotten, so their files are purged. The row of a version stays
for ever, with its digest, because reports name it.
"""

from collections import defaultdict
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

from sqlalchemy import func, select, update
from sqlalchemy.orm import Session, aliased

from ledger.db import now
from ledger.registry.held_files import held_paths
from ledger.registry.lineage import count_resurrected
from ledger.registry.models import CHECKPOINTS, find_model
from ledger.states import HandOverState
from ledger.tables import ApiKey, HandOver, Job, Model, ModelVersion, ReferenceSet, WeightFetch


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
    return {*weights, *session.scalars(select(ReferenceSet.path)), *checkpoints, *held_paths(session)}


@dataclass(frozen=True, slots=True, kw_only=True)
class HandedCopy:
    """A copy at a connected system. place: where, in the system's words. since: when it came into its state."""

    connector: str
    state: HandOverState
    place: str | None
    since: datetime
    delivered_at: datetime | None

    @property
    def is_gone(self) -> bool:
        """Whether the system has confirmed that it has deleted it."""
        return self.state == HandOverState.WITHDRAWN


@dataclass(frozen=True, slots=True, kw_only=True)
class FetchedCopy:
    """A copy of whoever fetched the weights with an API key: how often, and when for the last time."""

    key: str
    name: str
    times: int
    last: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class VersionCopies:
    """A version with its copies. knows: how many samples it knows that the model has forgotten since.

    stored: whether its weights are kept in the storage, for itself or, once it is purged, for another version with the same file.
    """

    version_id: UUID
    number: int
    served: bool
    knows: int
    weights_path: str
    created_at: datetime
    purged_at: datetime | None
    stored: bool
    handed: tuple[HandedCopy, ...]
    fetched: tuple[FetchedCopy, ...]


def list_copies(session: Session, *, tenant_id: UUID, model: str) -> list[VersionCopies]:
    """List the versions of a model with their copies, newest first. Raises UnknownModel."""
    of = find_model(session, tenant_id=tenant_id, name=model)
    handed, fetched, kept = _handed(session, of.id), _fetched(session, of.id), needed_files(session)
    versions = select(ModelVersion).where(ModelVersion.model_id == of.id).order_by(ModelVersion.number.desc())
    return [
        VersionCopies(
            version_id=version.id,
            number=version.number,
            served=version.id == of.served_version_id,
            knows=count_resurrected(session, version),
            weights_path=version.weights_path,
            created_at=version.created_at,
            purged_at=version.purged_at,
            stored=version.weights_path in kept,
            handed=tuple(handed.get(version.id, ())),
            fetched=tuple(fetched.get(version.id, ())),
        )
        for version in session.scalars(versions).all()
    ]


def _handed(session: Session, model_id: UUID) -> Mapping[UUID, list[HandedCopy]]:
    """Give for each version the systems that may have it: each that was called, whatever it answered."""
    called = select(HandOver).where(HandOver.model_id == model_id, HandOver.tried_at.is_not(None))
    copies: dict[UUID, list[HandedCopy]] = defaultdict(list)
    for row in session.scalars(called.order_by(HandOver.created_at)):
        copies[row.version_id].append(
            HandedCopy(
                connector=row.connector,
                state=row.state,
                place=row.place,
                since=row.since,
                delivered_at=row.delivered_at,
            )
        )
    return copies


def _fetched(session: Session, model_id: UUID) -> Mapping[UUID, list[FetchedCopy]]:
    """Give for each version who has fetched it, the latest first."""
    last = func.max(WeightFetch.at)
    found = (
        select(WeightFetch.version_id, ApiKey.prefix, ApiKey.name, func.count(), last)
        .join(ApiKey, ApiKey.id == WeightFetch.key_id)
        .join(ModelVersion, ModelVersion.id == WeightFetch.version_id)
        .where(ModelVersion.model_id == model_id)
        .group_by(WeightFetch.version_id, ApiKey.prefix, ApiKey.name)
        .order_by(last.desc())
    )
    copies: dict[UUID, list[FetchedCopy]] = defaultdict(list)
    for version_id, prefix, name, times, at in session.execute(found):
        copies[version_id].append(FetchedCopy(key=prefix, name=name, times=times, last=at))
    return copies
