"""Jobs: read them, with their attempts and their reports."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from typing import Any
from uuid import UUID

from sqlalchemy import Select, bindparam, func, select, true
from sqlalchemy.orm import Session, aliased

from ledger import resources
from ledger.errors import UnknownJob, UnknownReport
from ledger.paging import read_page
from ledger.registry.models import find_model
from ledger.states import JobState, RequestState, Verdict
from ledger.tables import Attempt, Dataset, Job, Model, ModelVersion, Report, Target, UnlearnRequest
from ledger.tables.samples import erased_samples, job_samples, request_samples, training_samples


@cache
def _all_jobs() -> Select[Any]:
    """Select jobs, each row with the fields of `resources.Job`, in one statement, because jobs are polled."""
    published = aliased(ModelVersion)
    served = (
        select(func.count().label("requests"), func.min(UnlearnRequest.due_at).label("due_at"))
        .select_from(Target)
        .join(UnlearnRequest, UnlearnRequest.id == Target.request_id)
        .where(Target.job_id == Job.id, Target.state != RequestState.CANCELLED)
        .lateral()
    )
    return (
        select(
            *(getattr(Job, name) for name in resources.Job.model_fields if name in Job.__mapper__.columns),
            Job.sample_count.label("samples"),
            Model.name.label("model"),
            Dataset.name.label("dataset"),
            ModelVersion.number.label("base_version"),
            published.number.label("version"),
            Report.id.label("report_id"),
            Report.verdict.label("verdict"),
            served.c.requests,
            served.c.due_at,
        )
        .join(Model, Model.id == Job.model_id)
        .join(Dataset, Dataset.id == Model.dataset_id)
        .outerjoin(ModelVersion, ModelVersion.id == Job.base_version_id)
        .outerjoin(published, published.job_id == Job.id)
        .outerjoin(Report, Report.job_id == Job.id)
        .join(served, true())
    )


@cache
def _one_job() -> Select[Any]:
    return _all_jobs().where(Job.id == bindparam("job_id"), Job.tenant_id == bindparam("tenant_id"))


def get_job(session: Session, *, tenant_id: UUID, job_id: UUID) -> resources.Job:
    """Read one job. Raises UnknownJob."""
    found = session.execute(_one_job(), {"job_id": job_id, "tenant_id": tenant_id}).one_or_none()
    if found is None:
        raise UnknownJob(f"there is no job {job_id}")
    return resources.Job.model_validate(found)


def find_job(session: Session, *, tenant_id: UUID, job_id: UUID) -> Job:
    """Find the row of a tenant's job, read now. Raises UnknownJob."""
    chosen = select(Job).where(Job.id == job_id, Job.tenant_id == tenant_id).execution_options(populate_existing=True)
    job = session.scalar(chosen)
    if job is None:
        raise UnknownJob(f"there is no job {job_id}")
    return job


def find_trace(session: Session, job_id: UUID) -> str | None:
    """Find the span of the call that opened a job, as a W3C traceparent; None if that call was not traced."""
    return session.scalar(select(Job.traceparent).where(Job.id == job_id))


def samples_of_open_job(job_id: UUID) -> Select[tuple[UUID, bytes]]:
    """Select the samples that an open job would erase: those of its requests that its model was trained on, each once."""
    return (
        select(Target.job_id, request_samples.c.digest)
        .join(request_samples, request_samples.c.request_id == Target.request_id)
        .join(
            training_samples,
            (training_samples.c.model_id == Target.model_id) & (training_samples.c.digest == request_samples.c.digest),
        )
        .where(Target.job_id == job_id, Target.state == RequestState.SCHEDULED)
        .distinct()
    )


def samples_of_closed_job(job_id: UUID) -> Select[tuple[UUID, bytes]]:
    """Select the samples of a job that has closed."""
    return select(job_samples.c.job_id, job_samples.c.digest).where(job_samples.c.job_id == job_id)


def count_to_erase(session: Session, model_id: UUID, samples: Select[tuple[UUID, bytes]]) -> int:
    """Count those of a job's samples that its model has not forgotten yet."""
    asked = samples.subquery()
    erased = select(erased_samples.c.digest).where(
        erased_samples.c.model_id == model_id, erased_samples.c.digest == asked.c.digest
    )
    return session.scalars(select(func.count()).select_from(asked).where(~erased.exists())).one()


def list_jobs(
    session: Session,
    *,
    tenant_id: UUID,
    state: JobState | None = None,
    model: str | None = None,
    cursor: str | None = None,
    limit: int = 50,
) -> resources.Page[resources.Job]:
    """List a tenant's jobs, newest first: all, or those in a state or of a model. Raises UnknownModel, InvalidCursor."""
    chosen = select(Job).where(Job.tenant_id == tenant_id)
    if state is not None:
        chosen = chosen.where(Job.state == state)
    if model is not None:
        chosen = chosen.where(Job.model_id == find_model(session, tenant_id=tenant_id, name=model).id)
    jobs, next_cursor = read_page(session, chosen, Job, cursor=cursor, limit=limit)
    found = {row.id: row for row in session.execute(_all_jobs().where(Job.id.in_([job.id for job in jobs])))}
    items = [resources.Job.model_validate(found[job.id]) for job in jobs]
    return resources.Page[resources.Job](items=items, next_cursor=next_cursor)


def list_attempts(session: Session, *, tenant_id: UUID, job_id: UUID) -> list[resources.Attempt]:
    """List the attempts at a job, in their order. Raises UnknownJob."""
    find_job(session, tenant_id=tenant_id, job_id=job_id)
    attempts = session.scalars(select(Attempt).where(Attempt.job_id == job_id).order_by(Attempt.number))
    return [resources.Attempt.model_validate(attempt) for attempt in attempts]


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredReport:
    """A report. `body` is the JSON that was published, `sha256` its digest, `statement` the signed envelope about it."""

    id: UUID
    sha256: str
    body: Mapping[str, Any]
    statement: Mapping[str, Any] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportSummary:
    """A report in a list: which model and version it is about, what it found, and of how many forgotten samples."""

    id: UUID
    job_id: UUID
    model: str
    version: int
    verdict: Verdict
    samples: int
    signed: bool
    created_at: datetime


def list_reports(session: Session, *, tenant_id: UUID, limit: int) -> list[ReportSummary]:
    """List a tenant's newest reports."""
    chosen = (
        select(
            Report.id,
            Report.job_id,
            Model.name.label("model"),
            ModelVersion.number.label("version"),
            Report.verdict,
            Report.samples.label("samples"),
            Report.statement.is_not(None).label("signed"),
            Report.created_at,
        )
        .join(ModelVersion, ModelVersion.id == Report.version_id)
        .join(Model, Model.id == ModelVersion.model_id)
        .where(Report.tenant_id == tenant_id)
        .order_by(Report.created_at.desc(), Report.id)
        .limit(limit)
    )
    return [ReportSummary(**row._mapping) for row in session.execute(chosen)]


def get_report(session: Session, *, tenant_id: UUID, report_id: UUID) -> StoredReport:
    """Read one report. Raises UnknownReport."""
    report = session.scalar(select(Report).where(Report.id == report_id, Report.tenant_id == tenant_id))
    if report is None:
        raise UnknownReport(f"there is no report {report_id}")
    return StoredReport(id=report.id, sha256=report.sha256, body=report.body, statement=report.statement)
