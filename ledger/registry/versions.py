"""Versions: register a retrained one, and choose the served one. A version that knows erased samples is refused."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from sqlalchemy import Select, false, func, literal, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from ledger import resources
from ledger.errors import ModelBusy, SamplesErased, UnknownVersion, VersionRefused
from ledger.events.timeline import record
from ledger.registry.datasets import check_registered, chunks, count_common, insert_digests
from ledger.registry.lineage import count_resurrected, set_served
from ledger.registry.models import list_versions, lock_model, set_checkpoints, to_version
from ledger.states import Verdict, VersionKind
from ledger.tables import Job, Model, ModelVersion, Report
from ledger.tables.samples import erased_samples, training_samples, version_samples
from ledger.transparency.log import log_promotion


def register_version(
    session: Session,
    *,
    tenant_id: UUID,
    model: str,
    training: Iterable[bytes],
    weights_sha256: str,
    weights_path: str,
    by: str,
    checkpoints: Sequence[Mapping[str, Any]] = (),
) -> resources.Version:
    """Register newly trained weights as the model's next version. It is served once it is promoted.

    checkpoints: the weights after slices of this training, in place of those of an earlier one.
    Raises UnknownModel, ModelBusy, SamplesNotInDataset, and SamplesErased if its training used samples that the model had
    forgotten.
    """
    of = lock_idle_model(session, tenant_id=tenant_id, name=model)
    newest = session.scalars(select(func.max(ModelVersion.number)).where(ModelVersion.model_id == of.id)).one()
    version = ModelVersion(
        model_id=of.id,
        number=newest + 1,
        kind=VersionKind.TRAINED,
        weights_sha256=weights_sha256,
        weights_path=weights_path,
    )
    session.add(version)
    session.flush()
    for chunk in chunks(training):
        insert_digests(session, version_samples, "version_id", version.id, chunk)
    seen = select(version_samples.c.digest).where(version_samples.c.version_id == version.id)
    check_registered(session, seen, dataset_id=of.dataset_id)
    _refuse_erased(session, of, seen)
    more = select(literal(of.id), seen.subquery().c.digest, false())
    added = insert(training_samples).from_select(["model_id", "digest", "in_first"], more).on_conflict_do_nothing()
    of.training_count += session.connection().execute(added, execution_options={"preserve_rowcount": True}).rowcount
    if checkpoints:
        set_checkpoints(of, checkpoints)
    record(session, "version.registered", {"version": version.number, "by": by}, model_id=of.id)
    session.flush()
    return to_version(of, version, None)


def _refuse_erased(session: Session, model: Model, seen: Select[bytes]) -> None:
    """Check that a training used no sample that the model has forgotten. Raises SamplesErased."""
    erased = select(erased_samples.c.digest).where(erased_samples.c.model_id == model.id)
    back = count_common(session, seen, erased)
    if back:
        raise SamplesErased(
            f"the training used {back} samples that {model.name!r} had forgotten; train again without those of its "
            "do-not-train list"
        )


def promote(session: Session, *, tenant_id: UUID, model: str, number: int, by: str) -> resources.Version:
    """Serve this version from now on, whether newer or older than the served one. Again changes nothing.

    Raises UnknownModel, UnknownVersion, ModelBusy, VersionRefused, and SamplesErased if it still knows samples that were erased
    later.
    """
    of = lock_idle_model(session, tenant_id=tenant_id, name=model)
    chosen = select(ModelVersion).where(ModelVersion.model_id == of.id, ModelVersion.number == number)
    version = session.scalar(chosen)
    if version is None:
        raise UnknownVersion(f"{model!r} has no version {number}")
    if version.refused_at is not None:
        raise VersionRefused(f"version {number} of {model!r} was refused and is never served")
    if version.purged_at is not None:
        raise VersionRefused(
            f"the weights of version {number} of {model!r} were purged on {version.purged_at:%Y-%m-%d}"
        )
    if version.id != of.served_version_id:
        back = count_resurrected(session, version)
        if back:
            raise SamplesErased(
                f"version {number} still knows {back} samples that {model!r} has forgotten since; it cannot be served again"
            )
        before = session.get_one(ModelVersion, of.served_version_id)
        record(session, "version.promoted", {"version": number, "before": before.number, "by": by}, model_id=of.id)
        set_served(session, version)
        session.flush()
        log_promotion(session, of, version)
    report_id = session.scalar(select(Report.id).where(Report.version_id == version.id))
    return to_version(of, version, report_id)


def lock_idle_model(session: Session, *, tenant_id: UUID, name: str) -> Model:
    """Lock a tenant's model, which no job may hold. Raises UnknownModel, ModelBusy."""
    model = lock_model(session, tenant_id=tenant_id, name=name)
    busy = session.scalar(select(Job.id).where(Job.model_id == model.id, Job.holds_model))
    if busy is not None:
        raise ModelBusy(f"job {busy} of {name!r} is running or awaits approval; wait for its end, or cancel it")
    return model


@dataclass(frozen=True, slots=True, kw_only=True)
class VersionSummary:
    """A version, with the number of samples that it was made to forget, and the verdict of its audit."""

    version: resources.Version
    samples: int
    verdict: Verdict | None


def list_version_summaries(session: Session, *, tenant_id: UUID, model: str) -> list[VersionSummary]:
    """List all versions of a model, newest first. Raises UnknownModel."""
    versions = list_versions(session, tenant_id=tenant_id, model=model)
    ids = [version.id for version in versions]
    counted = select(erased_samples.c.version_id, func.count()).where(erased_samples.c.version_id.in_(ids))
    found = select(Report.version_id, Report.verdict).where(Report.version_id.in_(ids))
    samples: dict[UUID, int] = dict(session.execute(counted.group_by(erased_samples.c.version_id)).all())
    verdicts = dict(session.execute(found).all())
    return [
        VersionSummary(version=version, samples=samples.get(version.id, 0), verdict=verdicts.get(version.id))
        for version in versions
    ]
