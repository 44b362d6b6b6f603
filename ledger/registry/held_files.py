"""Files that a version makes outdated: its own become the model's with it, and not before, and what they replace is deleted.

A version that awaits approval holds them. A refused one leaves the model as it was, with its reference predictions and the weights
after slices of its training.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from sqlalchemy import null, select, update
from sqlalchemy.orm import Session

from ledger.registry.lineage import trained_on
from ledger.registry.models import CHECKPOINTS, set_checkpoints
from ledger.registry.references import ReferenceFile, replace_references
from ledger.tables import Model, ModelVersion
from ledger.tables.samples import job_samples

REFERENCES, OUTDATED = "references", "outdated"
"""Keys of `ModelVersion.held_files`: the files before and after, as of `CHECKPOINTS`; and once it is served, what to delete."""

TRAINED = "version"
"""Key of an entry of `CHECKPOINTS`: the number of the version that was registered with it. It has none if a job has made it."""


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
