"""Jobs: reading them with their attempts, cancelling and retrying them."""

from functools import cache
from typing import Any
from uuid import UUID

from sqlalchemy import Select, bindparam, func, select, true, update
from sqlalchemy.orm import Session, aliased

from ledger import resources
from ledger.db import read_page
from ledger.errors import NotFailed, TooLate, UnknownJob, VersionRefused
from ledger.events.timeline import record
from ledger.jobs.transitions import advance_job
from ledger.states import LEASED, JobState, Phase, Reason, RequestState
from ledger.tables import Attempt, Dataset, Job, Model, ModelVersion, Report, Target, UnlearnRequest


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
            *(column for column in Job.__table__.c if column.name in resources.Job.model_fields),
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


def list_jobs(
    session: Session,
    *,
    tenant_id: UUID,
    state: JobState | None = None,
    model: str | None = None,
    cursor: str | None = None,
    limit: int = 50,
) -> resources.Page[resources.Job]:
    """List a tenant's jobs, newest first: all, or those in a state or of a model. Raises InvalidCursor."""
    chosen = select(Job).where(Job.tenant_id == tenant_id)
    if state is not None:
        chosen = chosen.where(Job.state == state)
    if model is not None:
        chosen = chosen.where(Job.model_id.in_(select(Model.id).where(Model.name == model)))
    jobs, next_cursor = read_page(session, chosen, Job, cursor=cursor, limit=limit)
    found = {row.id: row for row in session.execute(_all_jobs().where(Job.id.in_([job.id for job in jobs])))}
    items = [resources.Job.model_validate(found[job.id]) for job in jobs]
    return resources.Page[resources.Job](items=items, next_cursor=next_cursor)


def list_attempts(session: Session, *, tenant_id: UUID, job_id: UUID) -> list[resources.Attempt]:
    """List the attempts at a job, in their order. Raises UnknownJob."""
    find_job(session, tenant_id=tenant_id, job_id=job_id)
    attempts = session.scalars(select(Attempt).where(Attempt.job_id == job_id).order_by(Attempt.number))
    return [resources.Attempt.model_validate(attempt) for attempt in attempts]


def cancel_job(session: Session, *, tenant_id: UUID, job_id: UUID) -> resources.Job:
    """Cancel a job with all its requests: at once while it waits, at the worker's next step while it runs; again does nothing.

    The served model is untouched in any case. Raises UnknownJob, and TooLate once it has completed or failed.
    """
    find_job(session, tenant_id=tenant_id, job_id=job_id)
    job = session.get_one(Job, job_id, with_for_update={"key_share": True}, populate_existing=True)
    if job.state in {JobState.COMPLETED, JobState.FAILED}:
        raise TooLate(f"the job has {job.state} already; it can not be cancelled")
    stop_job(session, job)
    session.flush()
    return get_job(session, tenant_id=tenant_id, job_id=job_id)


def stop_job(session: Session, job: Job) -> None:
    """Cancel a locked job: at once while no worker holds it, else ask its worker. A job that has ended stays as it is."""
    if job.state in (JobState.QUEUED, JobState.AWAITING_APPROVAL):
        refuse_version(session, job)
        advance_job(session, job.id, JobState.CANCELLED, reason=Reason.CANCELLED_BY_CALLER)
    elif job.state in LEASED and not job.cancel_requested:
        job.cancel_requested = True
        record(session, "job.cancel_requested", {}, job_id=job.id)


def refuse_version(session: Session, job: Job) -> None:
    """Mark the version of a job, if it has made one, as never to be served."""
    made = update(ModelVersion).where(ModelVersion.job_id == job.id)
    session.execute(made.values(refused_at=func.clock_timestamp()))


def retry_job(session: Session, *, tenant_id: UUID, job_id: UUID) -> resources.Job:
    """Put a failed job back into the queue, from the first method of its policy and with all its tries.

    Raises UnknownJob, NotFailed for a job in another state, and VersionRefused for one that has had its result.
    """
    find_job(session, tenant_id=tenant_id, job_id=job_id)
    job = session.get_one(Job, job_id, with_for_update={"key_share": True}, populate_existing=True)
    if job.state != JobState.FAILED:
        raise NotFailed(f"only a failed job can be retried; this one is {job.state}")
    if session.scalar(select(ModelVersion.id).where(ModelVersion.job_id == job_id)) is not None:
        raise VersionRefused("the version that this job made was refused; submit its requests anew")
    advance_job(
        session,
        job_id,
        JobState.QUEUED,
        data={"reason": "retried"},
        attempt=job.attempt + 1,
        tries=0,
        policy_index=0,
        method=job.policy[0],
        cancel_requested=False,
        phase=Phase.WAITING,
        progress=0.0,
        step=0,
        total=0,
        eta_seconds=None,
    )
    return get_job(session, tenant_id=tenant_id, job_id=job_id)
