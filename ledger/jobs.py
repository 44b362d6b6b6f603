"""Jobs: reading, cancelling and retrying them."""

from functools import cache
from typing import Any
from uuid import UUID

from sqlalchemy import Select, bindparam, select
from sqlalchemy.orm import Session

from ledger.advance import advance_job
from ledger.clock import now
from ledger.errors import NotFailed, TooLate, UnknownJob, VersionRefused
from ledger.events import record
from ledger.job_views import AttemptView, JobView, attempt_view, job_view, job_views, with_facts
from ledger.pages import Page, read_page
from ledger.states import ACTIVE, JobState, Phase, Reason
from ledger.tables import Attempt, Job, Model, ModelVersion


def get_job(session: Session, *, tenant_id: UUID, job_id: UUID) -> JobView:
    """One job, read now. Raises UnknownJob."""
    found = session.execute(_one(), {"job_id": job_id, "tenant_id": tenant_id}).one_or_none()
    if found is None:
        raise UnknownJob(f"there is no job {job_id}")
    return job_view(*found)


@cache
def _one() -> Select[Any]:
    mine = with_facts().where(Job.id == bindparam("job_id"), Job.tenant_id == bindparam("tenant_id"))
    return mine.execution_options(populate_existing=True)


def find_job(session: Session, *, tenant_id: UUID, job_id: UUID) -> Job:
    """The row of a tenant's job, read now. Raises UnknownJob."""
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
) -> Page[JobView]:
    """A tenant's jobs, newest first: all, or those in a state or of a model. Raises InvalidCursor."""
    chosen = select(Job).where(Job.tenant_id == tenant_id)
    if state is not None:
        chosen = chosen.where(Job.state == state)
    if model is not None:
        chosen = chosen.where(Job.model_id.in_(select(Model.id).where(Model.name == model)))
    return read_page(session, chosen, Job, cursor=cursor, limit=limit, views=lambda jobs: job_views(session, jobs))


def list_attempts(session: Session, *, tenant_id: UUID, job_id: UUID) -> list[AttemptView]:
    """The attempts at a job, in their order. Raises UnknownJob."""
    find_job(session, tenant_id=tenant_id, job_id=job_id)
    return [
        attempt_view(attempt)
        for attempt in session.scalars(select(Attempt).where(Attempt.job_id == job_id).order_by(Attempt.number))
    ]


def cancel_job(session: Session, *, tenant_id: UUID, job_id: UUID) -> JobView:
    """Cancel a job with all its requests: at once while it waits, at the worker's next step while it runs; again does nothing.

    The served model is untouched in any case. Raises UnknownJob, and TooLate once it has completed or failed.
    """
    find_job(session, tenant_id=tenant_id, job_id=job_id)
    job = session.get_one(Job, job_id, with_for_update={"key_share": True}, populate_existing=True)
    if job.state in {JobState.COMPLETED, JobState.FAILED}:
        raise TooLate(f"the job has {job.state} already; it can not be cancelled")
    stop(session, job)
    session.flush()
    return job_views(session, [job])[0]


def stop(session: Session, job: Job) -> None:
    """Cancel a locked job that has not ended: at once while nobody holds it, else by asking whoever does."""
    if job.state == JobState.QUEUED:
        advance_job(session, job.id, JobState.CANCELLED, reason=Reason.CANCELLED_BY_CALLER)
    elif job.state in ACTIVE and job.phase == Phase.AWAITING_APPROVAL:
        refuse_version(session, job)
        advance_job(session, job.id, JobState.CANCELLED, reason=Reason.CANCELLED_BY_CALLER)
    elif job.state in ACTIVE and not job.cancel_requested:
        job.cancel_requested = True
        record(session, "job.cancel_requested", {}, job_id=job.id)


def refuse_version(session: Session, job: Job) -> None:
    """Note that the version of a job that awaits approval is never to be served."""
    version = session.scalars(select(ModelVersion).where(ModelVersion.job_id == job.id)).one()
    version.refused_at = now(session)


def retry_job(session: Session, *, tenant_id: UUID, job_id: UUID) -> JobView:
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
    return job_views(session, [job])[0]
