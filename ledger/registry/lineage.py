"""What a version knows: its training samples, less what was erased on the way from its training to it.

A version that was unlearned descends from the one its job began with, and so on to one that was trained. A sample that was erased
from the model elsewhere than on that way is one that the version still knows.
"""

from dataclasses import dataclass
from uuid import UUID

from sqlalchemy import Select, func, literal, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from ledger.states import VersionKind
from ledger.tables import Job, Model, ModelVersion
from ledger.tables.requests import erased_samples, job_samples, training_samples, version_samples

FIRST = 1


@dataclass(frozen=True, slots=True)
class Lineage:
    """A version's way back: all on it, itself included, and the trained one at its beginning."""

    version_ids: frozenset[UUID]
    trained: ModelVersion


def lineage(session: Session, version: ModelVersion) -> Lineage:
    """The way from a version back to its training."""
    on_the_way = {version.id}
    while version.job_id is not None:
        base_id = session.get_one(Job, version.job_id).base_version_id
        assert base_id is not None  # a job that has published has begun with a version
        version = session.get_one(ModelVersion, base_id)
        on_the_way.add(version.id)
    return Lineage(frozenset(on_the_way), version)


def trained_on(version: ModelVersion) -> Select[bytes]:
    """The digests that a trained version was trained on."""
    if version.number == FIRST:
        of_first = (training_samples.c.model_id == version.model_id) & training_samples.c.in_first
        return select(training_samples.c.digest).where(of_first)
    return select(version_samples.c.digest).where(version_samples.c.version_id == version.id)


def known_samples(session: Session, version: ModelVersion, *, among: UUID) -> Select[bytes]:
    """Those of a job's samples that a version's training has shown it."""
    shown = trained_on(lineage(session, version).trained)
    return select(job_samples.c.digest).where(job_samples.c.job_id == among, job_samples.c.digest.in_(shown))


@dataclass(frozen=True, slots=True, kw_only=True)
class Reference:
    """A version that was trained without ever seeing what a job erases: what its audit is held against."""

    version: int
    weights_sha256: str
    weights_path: str


def find_reference(session: Session, base: ModelVersion, *, job_id: UUID) -> Reference | None:
    """The newest version that was trained on exactly what `base` is still to know once the job is done; None without one.

    Exactly: one that has also seen less, or more, would differ from the job's result for other reasons than the erasure. Nor is
    it the base's own weights under another number.
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
    """How many samples were erased from the model that this version still knows."""
    of = lineage(session, version)
    elsewhere = (erased_samples.c.model_id == version.model_id) & erased_samples.c.version_id.not_in(of.version_ids)
    back = select(func.count()).select_from(erased_samples).where(elsewhere)
    return session.scalars(back.where(erased_samples.c.digest.in_(trained_on(of.trained)))).one()


def record_erasure(session: Session, *, job_id: UUID, version: ModelVersion) -> None:
    """Remember for ever that the model has forgotten a job's samples: from this version on it does not know them."""
    manifest = select(literal(version.model_id), job_samples.c.digest, literal(job_id), literal(version.id)).where(
        job_samples.c.job_id == job_id
    )
    columns = ["model_id", "digest", "job_id", "version_id"]
    session.execute(insert(erased_samples).from_select(columns, manifest).on_conflict_do_nothing())


def set_served(session: Session, version: ModelVersion) -> None:
    """Make a version the one that its model serves; the model's row must be free for the caller to change."""
    session.get_one(Model, version.model_id).served_version_id = version.id
