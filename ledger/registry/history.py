"""What a model's versions have forgotten, and when: the history that leaves with a model."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from ledger import resources
from ledger.registry.models import get_model
from ledger.states import Verdict, VersionKind
from ledger.tables import Job, Model, ModelVersion, Report
from ledger.tables.samples import erased_samples


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """A version, and how it was made.

    samples: how many it was made to forget. predecessor: the version it was made from. A trained version has 0 and none of them, no
    method, verdict and report. knows_erased: whether it knows samples that were erased since. purged_at: when its weights were
    deleted here.
    """

    number: int
    kind: VersionKind
    weights_sha256: str
    samples: int
    predecessor: int | None
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
    versions: tuple[Made, ...]

    @property
    def lineage(self) -> tuple[Made, ...]:
        """The served version with those that it was made from, back to a trained one, oldest first."""
        return tuple(reversed([*self._walk()]))

    def _walk(self) -> Iterator[Made]:
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
    forgotten = select(func.count()).where(erased_samples.c.version_id == ModelVersion.id).correlate(ModelVersion)
    chosen = (
        select(ModelVersion, forgotten.scalar_subquery(), base, Job, Report)
        .join(Model, Model.id == ModelVersion.model_id)
        .outerjoin(Job, Job.id == ModelVersion.job_id)
        .outerjoin(Report, Report.version_id == ModelVersion.id)
        .where(Model.id == found.id)
        .order_by(ModelVersion.number)
    )
    versions = tuple(
        Made(
            number=version.number,
            kind=version.kind,
            weights_sha256=version.weights_sha256,
            samples=samples,
            predecessor=before,
            method=None if job is None else str(job.method["kind"]),
            verdict=None if report is None else report.verdict,
            report_id=None if report is None else report.id,
            report_sha256=None if report is None else report.sha256,
            knows_erased=version.knows_erased,
            purged_at=version.purged_at,
            created_at=version.created_at,
        )
        for version, samples, before, job, report in session.execute(chosen)
    )
    return History(model=found, versions=versions)
