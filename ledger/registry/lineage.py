"""Lineage: the versions that a version descends from, and the samples that it therefore still knows.

An unlearned version descends from the version that its job started with, and so on back to a trained one. A version knows the
samples of that training, except those that were erased along its lineage.
"""

from dataclasses import dataclass
from uuid import UUID

from sqlalchemy import Select, func, literal, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from ledger.db import allow_long_statements
from ledger.states import VersionKind
from ledger.tables import Job, Model, ModelVersion
from ledger.tables.samples import erased_samples, job_samples, training_samples, version_samples

FIRST = 1


@dataclass(frozen=True, slots=True)
class Lineage:
    """The versions that a version descends from, itself included, and the trained version at the beginning."""

    version_ids: frozenset[UUID]
    trained: ModelVersion


def lineage(session: Session, version: ModelVersion) -> Lineage:
    """Follow a version back to the training that it descends from."""
    version_ids = {version.id}
    while version.job_id is not None:
        base_id = session.get_one(Job, version.job_id).base_version_id
        assert base_id is not None  # a job that made a version has started with one
        version = session.get_one(ModelVersion, base_id)
        version_ids.add(version.id)
    return Lineage(frozenset(version_ids), version)


def trained_on(version: ModelVersion) -> Select[bytes]:
    """Select the digests that a trained version was trained on."""
    if version.number == FIRST:
        of_first = (training_samples.c.model_id == version.model_id) & training_samples.c.in_first
        return select(training_samples.c.digest).where(of_first)
    return select(version_samples.c.digest).where(version_samples.c.version_id == version.id)


def known_samples(session: Session, version: ModelVersion, *, among: UUID) -> Select[bytes]:
    """Select those of a job's samples that were in the training of a version."""
    shown = trained_on(lineage(session, version).trained)
    return select(job_samples.c.digest).where(job_samples.c.job_id == among, job_samples.c.digest.in_(shown))


@dataclass(frozen=True, slots=True, kw_only=True)
class Reference:
    """A retrained model to compare a job's result with: a version that was trained without what the job erases."""

    version: int
    weights_sha256: str
    weights_path: str


def find_reference(session: Session, base: ModelVersion, *, job_id: UUID) -> Reference | None:
    """Find the newest version that was trained on exactly what `base` will still know after the job; None if there is none.

    A version trained on less or more would differ from the job's result for other reasons than the erasure. The base's own
    weights under another number do not count.
    """
    of = lineage(session, base)
    erased = select(erased_samples.c.digest).where(erased_samples.c.model_id == base.model_id)
    asked = select(job_samples.c.digest).where(job_samples.c.job_id == job_id)
    remaining = trained_on(of.trained).except_(erased, asked).subquery()
    candidates = (
        select(ModelVersion)
        .where(ModelVersion.model_id == base.model_id, ModelVersion.kind == VersionKind.TRAINED)
        .where(ModelVersion.purged_at.is_(None), ModelVersion.id.not_in(of.version_ids))
        .where(ModelVersion.weights_sha256 != base.weights_sha256)
        .order_by(ModelVersion.number.desc())
    )
    for version in session.scalars(candidates).all():
        seen = trained_on(version).subquery()
        pairs = ((seen, remaining), (remaining, seen))
        if not any(session.scalar(select(one).except_(select(other)).limit(1)) for one, other in pairs):
            return Reference(
                version=version.number, weights_sha256=version.weights_sha256, weights_path=version.weights_path
            )
    return None


def count_resurrected(session: Session, version: ModelVersion) -> int:
    """Count the samples that were erased from the model and that this version still knows."""
    allow_long_statements(session)
    return session.scalars(select(func.count()).select_from(_resurrected(session, version).subquery())).one()


def _resurrected(session: Session, version: ModelVersion) -> Select[bytes]:
    """Select the samples that were erased from the model and that this version still knows."""
    of = lineage(session, version)
    elsewhere = (erased_samples.c.model_id == version.model_id) & erased_samples.c.version_id.not_in(of.version_ids)
    return select(erased_samples.c.digest).where(elsewhere, erased_samples.c.digest.in_(trained_on(of.trained)))


def record_erasure(session: Session, *, job_id: UUID, version: ModelVersion) -> None:
    """Record for ever that a job's samples are erased from the model, as of this version, and which versions still know them."""
    allow_long_statements(session)
    erased = select(literal(version.model_id), job_samples.c.digest, literal(job_id), literal(version.id)).where(
        job_samples.c.job_id == job_id
    )
    columns = ["model_id", "digest", "job_id", "version_id"]
    session.execute(insert(erased_samples).from_select(columns, erased).on_conflict_do_nothing())
    stored = select(ModelVersion).where(ModelVersion.model_id == version.model_id, ModelVersion.id != version.id)
    for other in session.scalars(stored.where(ModelVersion.purged_at.is_(None), ~ModelVersion.knows_erased)).all():
        other.knows_erased = session.scalar(select(_resurrected(session, other).exists())) or False


def set_served(session: Session, version: ModelVersion) -> None:
    """Make a version the one that its model serves. The caller must hold the lock of the model's row."""
    session.get_one(Model, version.model_id).served_version_id = version.id
