"""Cancellation of jobs, and the retry of failed ones."""

from uuid import UUID

from sqlalchemy import delete, func, null, select, update
from sqlalchemy.orm import Session

from ledger import resources
from ledger.db import allow_long_statements
from ledger.errors import NotFailed, TooLate, VersionRefused
from ledger.events.timeline import record
from ledger.jobs.jobs import count_to_erase, find_job, get_job, samples_of_closed_job
from ledger.jobs.transitions import advance_job
from ledger.requests.batching import job_policy
from ledger.states import LEASED, JobState, Phase, Reason, RequestState
from ledger.tables import Job, Model, ModelVersion, Target, UnlearnRequest
from ledger.tables.samples import job_samples, request_samples


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
    """Mark the version of a job, if it has made one, as never to be served. The model keeps its files."""
    made = update(ModelVersion).where(ModelVersion.job_id == job.id)
    session.execute(made.values(refused_at=func.clock_timestamp(), held_files=null()))


def retry_job(session: Session, *, tenant_id: UUID, job_id: UUID) -> resources.Job:
    """Put a failed job back into the queue, with all tries, and with its model's policy as it is now, from the first method on.

    A method that its requests named stays the first.
    Requests that were withdrawn or dismissed since are not served by it, and samples that nobody else asked for leave it.
    Raises UnknownJob, NotFailed for a job in another state or without a request that is still owed, and VersionRefused for a job
    whose version was refused.
    """
    find_job(session, tenant_id=tenant_id, job_id=job_id)
    job = session.get_one(Job, job_id, with_for_update={"key_share": True}, populate_existing=True)
    if job.state != JobState.FAILED:
        raise NotFailed(f"only a failed job can be retried; this one is {job.state}")
    if session.scalar(select(ModelVersion.id).where(ModelVersion.job_id == job_id)) is not None:
        raise VersionRefused("the version that this job made was refused; submit its requests again")
    _keep_what_is_owed(session, job)
    policy = job_policy(session.get_one(Model, job.model_id).policy, job.requested_method)
    advance_job(
        session,
        job_id,
        JobState.QUEUED,
        data={"reason": "retried"},
        attempt=job.attempt + 1,
        tries=0,
        retry_at=None,
        furthest_step=0,
        fallback=None,
        policy=policy,
        policy_index=0,
        method=policy[0],
        cancel_requested=False,
        phase=Phase.WAITING,
        progress=0.0,
        step=0,
        total=0,
        eta_seconds=None,
    )
    return get_job(session, tenant_id=tenant_id, job_id=job_id)


def _keep_what_is_owed(session: Session, job: Job) -> None:
    """Take dismissed requests, and the samples that nobody else asks for, out of a locked job that has failed.

    Raises NotFailed if no request is left.
    """
    failed = select(Target.id).join(UnlearnRequest, UnlearnRequest.id == Target.request_id)
    failed = failed.where(Target.job_id == job.id, Target.state == RequestState.FAILED)
    dismissed = list(session.scalars(failed.where(UnlearnRequest.dismissed_at.is_not(None))))
    if dismissed:
        session.execute(update(Target).where(Target.id.in_(dismissed)).values(job_id=None))
        record(session, "job.left", {}, job_id=job.id)
    if session.scalar(failed.limit(1)) is None:
        raise NotFailed("every request of this job was withdrawn or dismissed; there is nothing to retry")
    keep_asked_samples(session, job)


def keep_asked_samples(session: Session, job: Job) -> None:
    """Take the samples that no request asks for any more out of a locked job that has closed and that no worker holds."""
    allow_long_statements(session)
    asked = select(Target.id).join(request_samples, request_samples.c.request_id == Target.request_id)
    asked = asked.where(Target.job_id == job.id, request_samples.c.digest == job_samples.c.digest)
    session.execute(delete(job_samples).where(job_samples.c.job_id == job.id, ~asked.exists()))
    job.sample_count = count_to_erase(session, job.model_id, samples_of_closed_job(job.id))
