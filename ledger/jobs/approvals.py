"""Approval of a job before it runs, and of its version before it is served. Both are off unless the model asks for them.

A version that lost more merit than the model allows needs approval in any case.

The legal deadlines do not wait for an approval.
"""

from uuid import UUID

from sqlalchemy import select
from sqlalchemy.orm import Session

from ledger import resources
from ledger.db import now
from ledger.errors import NotAwaiting
from ledger.events.outbox import announce_wakeup
from ledger.events.timeline import record
from ledger.jobs.cancellation import refuse_version
from ledger.jobs.claims import await_approval
from ledger.jobs.jobs import find_job, get_job
from ledger.jobs.results import complete_job
from ledger.jobs.transitions import advance_job
from ledger.registry.models import get_model, lock_model
from ledger.registry.retention import release_files
from ledger.requests.batching import close_job
from ledger.states import JobState, Reason
from ledger.tables import Job, Model, ModelVersion, Report


def set_approvals(
    session: Session,
    *,
    tenant_id: UUID,
    model: str,
    jobs: bool | None = None,
    versions: bool | None = None,
    utility_drop: float | None = None,
    by: str,
) -> resources.Model:
    """Set whether a model's jobs and versions need approval from now on. None leaves a setting as it is.

    utility_drop: points of merit, 0 to 100, beyond which a version needs approval although versions need none.
    Jobs that await approval and no longer need it go back to the queue. A version that awaits approval goes on waiting.
    Raises UnknownModel.
    """
    row = lock_model(session, tenant_id=tenant_id, name=model)
    if jobs is None and versions is None and utility_drop is None:
        return get_model(session, tenant_id=tenant_id, name=model)
    row.approve_jobs = row.approve_jobs if jobs is None else jobs
    row.approve_versions = row.approve_versions if versions is None else versions
    row.approve_utility_drop = row.approve_utility_drop if utility_drop is None else utility_drop
    data = {
        "jobs": row.approve_jobs,
        "versions": row.approve_versions,
        "utility_drop": row.approve_utility_drop,
        "by": by,
    }
    record(session, "model.approvals", data, model_id=row.id)
    session.flush()
    if not row.approve_jobs:
        waiting = select(Job.id).where(
            Job.model_id == row.id, Job.state == JobState.AWAITING_APPROVAL, ~Job.holds_model
        )
        # All of them are locked before the first is announced: otherwise this and a cancellation could deadlock.
        for job_id in session.scalars(waiting.order_by(Job.id).with_for_update(key_share=True)).all():
            advance_job(session, job_id, JobState.QUEUED, data={"reason": "no approval needed"})
    return get_model(session, tenant_id=tenant_id, name=model)


def approve(session: Session, *, tenant_id: UUID, job_id: UUID, by: str) -> resources.Job:
    """Let a job run, or have its version served, whichever it awaits. Raises UnknownJob, and NotAwaiting if it awaits neither."""
    job = _lock_awaiting(session, tenant_id=tenant_id, job_id=job_id)
    if job.holds_model:
        _approve_version(session, job, by=by)
    else:
        record(session, "job.approved", {"by": by, "what": "run"}, job_id=job.id)
        advance_job(
            session,
            job.id,
            JobState.QUEUED,
            data={"reason": "approved"},
            approved_by=by,
            approved_at=now(session),
        )
        announce_wakeup(session, job.id)
    return get_job(session, tenant_id=tenant_id, job_id=job_id)


def _approve_version(session: Session, job: Job, *, by: str) -> None:
    version = session.scalars(select(ModelVersion).where(ModelVersion.job_id == job.id)).one()
    report = session.scalars(select(Report).where(Report.job_id == job.id)).one()
    record(session, "job.approved", {"by": by, "what": "version", "version": version.number}, job_id=job.id)
    data = {"verdict": report.verdict, "version": version.number, "report": report.id, "samples": report.samples}
    release_files(session, version)
    complete_job(session, job, version, data)


def refuse(session: Session, *, tenant_id: UUID, job_id: UUID, by: str) -> resources.Job:
    """Refuse to let a job run, which cancels it, or to serve its version: then the job fails and the old version stays served.

    Raises UnknownJob, and NotAwaiting if the job awaits neither.
    """
    job = _lock_awaiting(session, tenant_id=tenant_id, job_id=job_id)
    what, to = ("version", JobState.FAILED) if job.holds_model else ("run", JobState.CANCELLED)
    record(session, "job.refused", {"by": by, "what": what}, job_id=job.id)
    refuse_version(session, job)
    advance_job(session, job.id, to, reason=Reason.APPROVAL_REFUSED)
    return get_job(session, tenant_id=tenant_id, job_id=job_id)


def _lock_awaiting(session: Session, *, tenant_id: UUID, job_id: UUID) -> Job:
    """Lock a job that awaits approval, its model first. A queued job that would await it at its claim is closed and moved first."""
    model_id = find_job(session, tenant_id=tenant_id, job_id=job_id).model_id
    model = session.get_one(Model, model_id, with_for_update={"key_share": True}, populate_existing=True)
    job = session.get_one(Job, job_id, with_for_update={"key_share": True}, populate_existing=True)
    closed = job.closed_at is not None or job.closes_at <= now(session)
    if job.state == JobState.QUEUED and model.approve_jobs and job.approved_at is None and closed:
        if job.closed_at is None:
            close_job(session, job)
        await_approval(session, job)
    if job.state != JobState.AWAITING_APPROVAL:
        raise NotAwaiting(f"the job does not await approval: it is {job.state}")
    return job
