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

from ledger.registry.models import CHECKPOINTS, set_checkpoints
from ledger.registry.references import ReferenceFile, replace_references
from ledger.tables import Model, ModelVersion

REFERENCES, OUTDATED = "references", "outdated"
"""Keys of `ModelVersion.held_files`: the files before and after, as of `CHECKPOINTS`; and once it is served, what to delete."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CleanFiles:
    """What a model's files become once samples are erased: they know nothing of these.

    references: the file of reference predictions before and the one after; None without any. checkpoints: the weights after slices
    that may still be used, in place of those that the model's details list; None leaves these.
    """

    references: tuple[ReferenceFile, ReferenceFile] | None
    checkpoints: Sequence[Mapping[str, Any]] | None


def hold_files(version: ModelVersion, model: Model, files: CleanFiles) -> None:
    """Note beside a version which files become the model's with it."""
    held: dict[str, Any] = {}
    if files.checkpoints is not None:
        held[CHECKPOINTS] = [model.details.get(CHECKPOINTS, []), [dict(entry) for entry in files.checkpoints]]
    version.held_files = held or None
    if files.references is not None:
        hold_references(version, before=files.references[0], after=files.references[1])


def hold_references(version: ModelVersion, *, before: ReferenceFile, after: ReferenceFile) -> None:
    """Note beside a version the file of reference predictions that becomes the model's with it, and the one that it replaces."""
    files = [{"sha256": file.sha256, "path": file.path} for file in (before, after)]
    version.held_files = {**(version.held_files or {}), REFERENCES: files}


def holding_references(session: Session, model_id: UUID) -> Sequence[ModelVersion]:
    """Find the versions of a model with which other reference predictions become the model's."""
    chosen = select(ModelVersion).where(ModelVersion.model_id == model_id)
    return session.scalars(chosen.where(ModelVersion.held_files.has_key(REFERENCES))).all()


def held_references(version: ModelVersion) -> ReferenceFile:
    """Read which file of reference predictions becomes the model's with a version that holds one."""
    return ReferenceFile(**(version.held_files or {})[REFERENCES][1])


def release_files(session: Session, version: ModelVersion) -> None:
    """Make the held files of a version that is to be served the model's, unless others came in between, and note what to delete.

    The caller must hold the lock of the model's row.
    """
    held = version.held_files
    if not held:
        return
    model = session.get_one(Model, version.model_id)
    outdated = set[str]()
    if REFERENCES in held:
        old, new = (ReferenceFile(**file) for file in held[REFERENCES])
        replace_references(session, model.id, old=old, new=new)
        outdated |= {old.path} - {new.path}
    if CHECKPOINTS in held:
        before, checkpoints = held[CHECKPOINTS]
        if model.details.get(CHECKPOINTS, []) == before:
            set_checkpoints(model, checkpoints)
        outdated |= {entry["path"] for entry in before} - {entry["path"] for entry in checkpoints}
    version.held_files = {OUTDATED: sorted(outdated)} if outdated else None


def held_paths(session: Session) -> set[str]:
    """List the names of the files that become a model's if a version is approved."""
    found = session.scalars(select(ModelVersion.held_files).where(ModelVersion.held_files.is_not(None)))
    return {
        str(path)
        for held in found
        if held is not None
        for path in (
            *(file["path"] for file in held.get(REFERENCES, ())[1:]),
            *(entry["path"] for entries in held.get(CHECKPOINTS, ())[1:] for entry in entries),
        )
    }


def list_outdated(session: Session) -> dict[UUID, list[str]]:
    """List the files that versions have made outdated and that are not deleted yet, by the version."""
    chosen = select(ModelVersion.id, ModelVersion.held_files[OUTDATED])
    return dict(session.execute(chosen.where(ModelVersion.held_files.has_key(OUTDATED))).all())


def mark_deleted(session: Session, version_ids: Collection[UUID]) -> None:
    """Record that the outdated files of versions are deleted."""
    session.execute(update(ModelVersion).where(ModelVersion.id.in_(version_ids)).values(held_files=null()))
