"""Cancellation of jobs, and the retry of failed ones."""

from uuid import UUID

from sqlalchemy import func, select, update
from sqlalchemy.orm import Session

from ledger import resources
from ledger.errors import NotFailed, TooLate, VersionRefused
from ledger.events.timeline import record
from ledger.jobs.jobs import find_job, get_job
from ledger.jobs.transitions import advance_job
from ledger.states import LEASED, JobState, Phase, Reason
from ledger.tables import Job, ModelVersion


def cancel_job(session: Session, *, tenant_id: UUID, job_id: UUID) -> resources.Job:
    """Cancel a job and its requests: at once if it waits, at the worker's next step if it runs. Again changes nothing.

    The served model is never changed. Raises UnknownJob, and TooLate if the job has completed or failed.
    """
    find_job(session, tenant_id=tenant_id, job_id=job_id)
    job = session.get_one(Job, job_id, with_for_update={"key_share": True}, populate_existing=True)
    if job.state in {JobState.COMPLETED, JobState.FAILED}:
        raise TooLate(f"the job has {job.state} already; it cannot be cancelled")
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
    """Put a failed job back into the queue, with the first method of its policy and all tries.

    Raises UnknownJob, NotFailed for a job in another state, and VersionRefused for a job whose version was refused.
    """
    find_job(session, tenant_id=tenant_id, job_id=job_id)
    job = session.get_one(Job, job_id, with_for_update={"key_share": True}, populate_existing=True)
    if job.state != JobState.FAILED:
        raise NotFailed(f"only a failed job can be retried; this one is {job.state}")
    if session.scalar(select(ModelVersion.id).where(ModelVersion.job_id == job_id)) is not None:
        raise VersionRefused("the version that this job made was refused; submit its requests again")
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
