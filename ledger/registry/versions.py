"""Versions: register a retrained one, choose the served one, and read what is served and what each version has forgotten.

A version that knows erased samples is refused. The weights of a version may be signed by the operator's own key, so that other
tools can check them (OpenSSF model signing).
"""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import Select, false, func, literal, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from ledger import resources
from ledger.errors import NotFound, SamplesErased, UnknownModel, UnknownVersion, VersionRefused
from ledger.events.timeline import record
from ledger.registry.datasets import check_registered, count_common, insert_digests
from ledger.registry.lineage import count_resurrected, set_served
from ledger.registry.models import find_model, find_served, get_model, lock_idle_model, to_version
from ledger.registry.retention import replace_checkpoints
from ledger.states import Verdict, VersionKind
from ledger.tables import Job, Model, ModelVersion, Report, WeightFetch
from ledger.tables.samples import erased_samples, training_samples, version_samples
from ledger.transparency.log import log_promotion
from report.formatting import plural


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
    lacks: Collection[str] | None = None,
) -> resources.Version:
    """Register newly trained weights as the model's next version. It is served once it is promoted.

    checkpoints: the weights after slices of this training, in place of those of an earlier one, which are deleted. lacks: what
    methods may need and the model does not have any more; None leaves what was known.
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
    insert_digests(session, version_samples, "version_id", version.id, training)
    seen = select(version_samples.c.digest).where(version_samples.c.version_id == version.id)
    check_registered(session, seen, dataset_id=of.dataset_id)
    _refuse_erased(session, of, seen)
    more = select(literal(of.id), seen.subquery().c.digest, false())
    added = insert(training_samples).from_select(["model_id", "digest", "in_first"], more).on_conflict_do_nothing()
    of.training_count += session.connection().execute(added, execution_options={"preserve_rowcount": True}).rowcount
    replace_checkpoints(version, of, checkpoints)
    if lacks is not None:
        of.lacks = sorted(lacks)
    record(session, "version.registered", {"version": version.number, "by": by}, model_id=of.id)
    session.flush()
    return to_version(of, version, None)


def _refuse_erased(session: Session, model: Model, seen: Select[bytes]) -> None:
    """Check that a training used no sample that the model has forgotten. Raises SamplesErased."""
    erased = select(erased_samples.c.digest).where(erased_samples.c.model_id == model.id)
    back = count_common(session, seen, erased)
    if back:
        raise SamplesErased(
            f"the training used {plural(back, 'sample')} that {model.name!r} had forgotten; train again without those of its "
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
                f"version {number} still knows {plural(back, 'sample')} that {model!r} has forgotten since; it cannot be served "
                "again"
            )
        before = session.get_one(ModelVersion, of.served_version_id)
        record(session, "version.promoted", {"version": number, "before": before.number, "by": by}, model_id=of.id)
        set_served(session, version)
        session.flush()
        log_promotion(session, of, version)
    report_id = session.scalar(select(Report.id).where(Report.version_id == version.id))
    return to_version(of, version, report_id)


@dataclass(frozen=True, slots=True, kw_only=True)
class VersionSummary:
    """A version, and how it was made.

    samples: how many it was made to forget. predecessor: the number of the version that its job made it from. A trained version has
    0 samples and no predecessor, job, method, verdict and report. knows_erased: whether it knows samples that were erased since.
    purged_at: when its weights were deleted here.
    """

    number: int
    kind: VersionKind
    weights_sha256: str
    samples: int
    predecessor: int | None
    job_id: UUID | None
    method: str | None
    verdict: Verdict | None
    report_id: UUID | None
    report_sha256: str | None
    knows_erased: bool
    purged_at: datetime | None
    created_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class History:
    """A model with its served version, and the versions before and beside it, oldest first."""

    model: resources.Model
    versions: tuple[VersionSummary, ...]

    @property
    def lineage(self) -> tuple[VersionSummary, ...]:
        """The served version with those that it was made from, back to a trained one, oldest first."""
        return tuple(reversed([*self._walk()]))

    def _walk(self) -> Iterator[VersionSummary]:
        by_number = {made.number: made for made in self.versions}
        number: int | None = self.model.version.number
        while number is not None:
            made = by_number[number]
            yield made
            number = made.predecessor


def read_history(session: Session, *, tenant_id: UUID, model: str) -> History:
    """Read a model's history. Counts and digests, nothing of a sample. Raises UnknownModel."""
    found = get_model(session, tenant_id=tenant_id, name=model)
    base = select(ModelVersion.number).where(ModelVersion.id == Job.base_version_id).correlate(Job).scalar_subquery()
    chosen = (
        select(ModelVersion, base, Job, Report)
        .join(Model, Model.id == ModelVersion.model_id)
        .outerjoin(Job, Job.id == ModelVersion.job_id)
        .outerjoin(Report, Report.version_id == ModelVersion.id)
        .where(Model.id == found.id)
        .order_by(ModelVersion.number)
    )
    versions = tuple(
        VersionSummary(
            number=version.number,
            kind=version.kind,
            weights_sha256=version.weights_sha256,
            samples=0 if report is None else report.samples,
            predecessor=before,
            job_id=version.job_id,
            method=None if job is None else str(job.method["kind"]),
            verdict=None if report is None else report.verdict,
            report_id=None if report is None else report.id,
            report_sha256=None if report is None else report.sha256,
            knows_erased=version.knows_erased,
            purged_at=version.purged_at,
            created_at=version.created_at,
        )
        for version, before, job, report in session.execute(chosen)
    )
    return History(model=found, versions=versions)


@dataclass(frozen=True, slots=True, kw_only=True)
class ServedWeights:
    """The weights that a model serves now. path: the name of their file in the storage."""

    version_id: UUID
    version: int
    sha256: str
    path: str


def get_served_version(session: Session, *, tenant_id: UUID, model: str) -> resources.ServedVersion:
    """Read which version a model serves, and what its audit found. Raises UnknownModel."""
    found = (
        select(ModelVersion, Report.id, Report.verdict)
        .join(Model, Model.served_version_id == ModelVersion.id)
        .outerjoin(Report, Report.version_id == ModelVersion.id)
        .where(Model.tenant_id == tenant_id, Model.name == model)
    )
    row = session.execute(found).one_or_none()
    if row is None:
        raise UnknownModel(f"there is no model named {model!r}")
    version, report_id, verdict = row
    return resources.ServedVersion(
        model=model,
        version=version.number,
        weights_sha256=version.weights_sha256,
        report_id=report_id,
        verdict=verdict,
        created_at=version.created_at,
    )


def find_served_weights(session: Session, *, tenant_id: UUID, model: str) -> ServedWeights:
    """Find the weights that a model serves. Raises UnknownModel."""
    version = find_served(session, tenant_id=tenant_id, model=model)
    return ServedWeights(
        version_id=version.id, version=version.number, sha256=version.weights_sha256, path=version.weights_path
    )


def record_fetch(session: Session, *, version_id: UUID, key_id: UUID) -> None:
    """Record that the weights of a version are sent to the owner of an API key."""
    session.add(WeightFetch(version_id=version_id, key_id=key_id))
    session.flush()


def find_served_signature(session: Session, *, tenant_id: UUID, model: str) -> tuple[int, dict[str, Any]]:
    """Read the signature of the weights that a model serves, and their version's number.

    Raises UnknownModel, and NotFound if they are not signed.
    """
    served = find_served(session, tenant_id=tenant_id, model=model)
    if served.signature is None:
        raise NotFound(
            f"version {served.number} is not signed by a key of EXPUNGE_MODEL_SIGNING_KEY; the operator can run expunge sign"
        )
    return served.number, served.signature


@dataclass(frozen=True, slots=True, kw_only=True)
class SignableVersion:
    """A version whose weights are stored, and the signature of these if it has one.

    path: the name of the file in the storage. knows_erased: whether it knows samples that were erased since.
    """

    version_id: UUID
    number: int
    weights_sha256: str
    path: str
    signature: dict[str, Any] | None
    knows_erased: bool


def list_signable(session: Session, *, tenant_id: UUID, model: str) -> list[SignableVersion]:
    """List a model's versions whose weights were not purged, oldest first. Raises UnknownModel."""
    model_id = find_model(session, tenant_id=tenant_id, name=model).id
    stored = select(ModelVersion).where(ModelVersion.model_id == model_id, ModelVersion.purged_at.is_(None))
    return [
        SignableVersion(
            version_id=version.id,
            number=version.number,
            weights_sha256=version.weights_sha256,
            path=version.weights_path,
            signature=version.signature,
            knows_erased=version.knows_erased,
        )
        for version in session.scalars(stored.order_by(ModelVersion.number))
    ]


def set_signature(session: Session, version_id: UUID, signature: Mapping[str, Any]) -> None:
    """Give a version the signature of its weights, in place of an earlier one."""
    session.get_one(ModelVersion, version_id).signature = dict(signature)
