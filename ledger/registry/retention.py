"""Retention of files: which weights are kept, where their copies went, what is purged, and what a new version replaces.

Superseded versions still know the people whom a later version has forgotten, so their files are purged. The row of a version stays
for ever, with its digest, because reports name it.

A version also makes files of its model outdated: the reference predictions and the weights after slices of its training. Its own
become the model's with it, and not before, and what they replace is deleted. A version that awaits approval holds them. A refused
one leaves the model as it was.
"""

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import func, null, select, update
from sqlalchemy.orm import Session, aliased

from ledger.db import now
from ledger.registry.lineage import count_resurrected, trained_on
from ledger.registry.models import CHECKPOINTS, find_model, set_checkpoints
from ledger.registry.references import ReferenceFile, replace_references
from ledger.states import HandOverState
from ledger.tables import ApiKey, HandOver, Job, Model, ModelVersion, ReferenceSet, WeightFetch
from ledger.tables.samples import job_samples

REFERENCES, OUTDATED = "references", "outdated"
"""Keys of `ModelVersion.held_files`: the files before and after, as of `CHECKPOINTS`; and once it is served, what to delete."""

TRAINED = "version"
"""Key of an entry of `CHECKPOINTS`: the number of the version that was registered with it. It has none if a job has made it."""


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


@dataclass(frozen=True, kw_only=True, slots=True)
class CleanFiles:
    """What a model's files become once samples are erased: they know nothing of these.

    references: the file of reference predictions before and the one after, None where the one before cannot be read and the model
    has no references any more; None without any. checkpoints: the weights after slices that may still be used, in place of those
    that the model's details list; None leaves these.
    """

    references: tuple[ReferenceFile, ReferenceFile | None] | None
    checkpoints: Sequence[Mapping[str, Any]] | None


def hold_files(version: ModelVersion, model: Model, files: CleanFiles) -> None:
    """Note beside a version which files become the model's with it."""
    held = dict(version.held_files or {})
    if files.checkpoints is not None:
        held[CHECKPOINTS] = [model.details.get(CHECKPOINTS, []), [dict(entry) for entry in files.checkpoints]]
    version.held_files = held or None
    if files.references is not None:
        hold_references(version, before=files.references[0], after=files.references[1])


def hold_references(version: ModelVersion, *, before: ReferenceFile, after: ReferenceFile | None) -> None:
    """Note beside a version the file of reference predictions that becomes the model's with it, and the one that it replaces."""
    files = [file and {"sha256": file.sha256, "path": file.path} for file in (before, after)]
    version.held_files = {**(version.held_files or {}), REFERENCES: files}


def holding_references(session: Session, model_id: UUID) -> Sequence[ModelVersion]:
    """Find the versions of a model with which other reference predictions become the model's."""
    chosen = select(ModelVersion).where(ModelVersion.model_id == model_id)
    return session.scalars(chosen.where(ModelVersion.held_files.has_key(REFERENCES))).all()


def held_references(version: ModelVersion) -> ReferenceFile | None:
    """Read which file of reference predictions becomes the model's with a version that holds one; None if it then has none."""
    after = (version.held_files or {})[REFERENCES][1]
    return after and ReferenceFile(**after)


def release_files(session: Session, version: ModelVersion) -> None:
    """Make the held files of a version that is to be served the model's, unless others came in between, and note what to delete.

    The caller must hold the lock of the model's row.
    """
    held = version.held_files
    if not held:
        return
    model = session.get_one(Model, version.model_id)
    outdated = set[str](held.get(OUTDATED, ()))
    if REFERENCES in held:
        old, new = (file and ReferenceFile(**file) for file in held[REFERENCES])
        replace_references(session, model.id, old=old, new=new)
        outdated |= {old.path} - ({new.path} if new else set())
    if CHECKPOINTS in held:
        before, checkpoints = held[CHECKPOINTS]
        if model.details.get(CHECKPOINTS, []) == before:
            set_checkpoints(model, checkpoints)
        outdated |= {entry["path"] for entry in before} - {entry["path"] for entry in checkpoints}
    version.held_files = {OUTDATED: sorted(outdated)} if outdated else None


def replace_checkpoints(version: ModelVersion, model: Model, checkpoints: Sequence[Mapping[str, Any]]) -> None:
    """Replace the weights after slices of a locked model by those of a version's training, and note what to delete."""
    before, after = ({entry["path"] for entry in each} for each in (model.details.get(CHECKPOINTS, ()), checkpoints))
    if before or after:
        set_checkpoints(model, [{**entry, TRAINED: version.number} for entry in checkpoints])
    if before - after:
        version.held_files = {OUTDATED: sorted(before - after)}


def unknowing_checkpoints(session: Session, model: Model, *, job_id: UUID) -> list[Mapping[str, Any]] | None:
    """List the weights after slices of a training that is known to have used no sample of a job; None for a model without any.

    The ledger knows of a training by `register_version` which samples it used, and not of those of jobs: their slices are left out.
    """
    if CHECKPOINTS not in model.details:
        return None
    asked = select(job_samples.c.digest).where(job_samples.c.job_id == job_id)
    listed: Sequence[Mapping[str, Any]] = model.details[CHECKPOINTS]
    numbers = {int(entry[TRAINED]) for entry in listed if TRAINED in entry}
    chosen = select(ModelVersion).where(ModelVersion.model_id == model.id, ModelVersion.number.in_(numbers))
    unknowing = {
        version.number
        for version in session.scalars(chosen).all()
        if not session.scalar(select(trained_on(version).intersect(asked).exists()))
    }
    return [entry for entry in listed if entry.get(TRAINED) in unknowing]


def held_paths(session: Session) -> set[str]:
    """List the names of the files that become a model's if a version is approved."""
    found = session.scalars(select(ModelVersion.held_files).where(ModelVersion.held_files.is_not(None)))
    return {
        str(path)
        for held in found
        if held is not None
        for path in (
            *(file["path"] for file in held.get(REFERENCES, ())[1:] if file),
            *(entry["path"] for entries in held.get(CHECKPOINTS, ())[1:] for entry in entries),
        )
    }


def list_outdated(session: Session) -> dict[UUID, list[str]]:
    """List the files that versions have made outdated and that are not deleted yet, by the version."""
    chosen = select(ModelVersion.id, ModelVersion.held_files[OUTDATED])
    return dict(session.execute(chosen.where(ModelVersion.held_files.has_key(OUTDATED))).all())


def mark_deleted(session: Session, deleted: Mapping[UUID, Collection[str]]) -> None:
    """Record that the outdated files of versions are deleted. What became outdated since is listed until it is deleted too."""
    for version_id, names in deleted.items():
        theirs = (ModelVersion.id == version_id) & (ModelVersion.held_files == {OUTDATED: list(names)})
        session.execute(update(ModelVersion).where(theirs).values(held_files=null()))
