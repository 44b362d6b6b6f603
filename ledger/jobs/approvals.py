"""Approval, by policy of the model: before a job runs, and before the version that it made is served. Both are off by default.

The legal clock does not wait for it.
"""

from uuid import UUID

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from ledger import resources
from ledger.db import now
from ledger.errors import NotAwaiting, UnknownModel
from ledger.events.outbox import announce_next, announce_wakeup
from ledger.events.timeline import record
from ledger.jobs.jobs import find_job, get_job, refuse_version
from ledger.jobs.results import complete_job
from ledger.jobs.transitions import advance_job
from ledger.registry.models import get_model
from ledger.requests.batching import close_job
from ledger.states import JobState, Phase, Reason
from ledger.tables import Job, Model, ModelVersion, Report


def set_approvals(
    session: Session, *, tenant_id: UUID, model: str, jobs: bool | None = None, versions: bool | None = None, by: str
) -> resources.Model:
    """Say what of a model's needs approval from now on; None leaves it. A job that waited and need not any more is let run.

    A version that waits goes on waiting. Raises UnknownModel.
    """
    mine = select(Model).where(Model.tenant_id == tenant_id, Model.name == model)
    row = session.scalar(mine.with_for_update(key_share=True).execution_options(populate_existing=True))
    if row is None:
        raise UnknownModel(f"there is no model named {model!r}")
    row.approve_jobs = row.approve_jobs if jobs is None else jobs
    row.approve_versions = row.approve_versions if versions is None else versions
    told = {"jobs": row.approve_jobs, "versions": row.approve_versions, "by": by}
    record(session, "model.approvals", told, model_id=row.id)
    if not row.approve_jobs:
        waiting = (Job.model_id == row.id) & (Job.state == JobState.QUEUED) & (Job.phase == Phase.AWAITING_APPROVAL)
        session.execute(update(Job).where(waiting).values(phase=Phase.WAITING))
        announce_next(session, row.id)
    session.flush()
    return get_model(session, tenant_id=tenant_id, name=model)


def approve(session: Session, *, tenant_id: UUID, job_id: UUID, by: str) -> resources.Job:
    """Let a job run, or have its version served: whichever it waits for.

    Raises UnknownJob, and NotAwaiting for a job that waits for neither.
    """
    job = _awaiting(session, tenant_id=tenant_id, job_id=job_id)
    if job.state == JobState.QUEUED:
        job.approved_by, job.approved_at, job.phase = by, now(session), Phase.WAITING
        record(session, "job.approved", {"by": by, "what": "run"}, job_id=job.id)
        announce_wakeup(session, job.id)
    else:
        version, report = _result(session, job)
        told = {"by": by, "what": "version", "version": version.number}
        record(session, "job.approved", told, job_id=job.id)
        about = {
            "verdict": report.verdict,
            "version": version.number,
            "report": report.id,
            "samples": job.sample_count,
        }
        complete_job(session, job, version, about)
    session.flush()
    return get_job(session, tenant_id=tenant_id, job_id=job_id)


def refuse(session: Session, *, tenant_id: UUID, job_id: UUID, by: str) -> resources.Job:
    """Do not let a job run: it is cancelled; or do not have its version served: it has failed, and the old one stays.

    Raises UnknownJob, and NotAwaiting for a job that waits for neither.
    """
    job = _awaiting(session, tenant_id=tenant_id, job_id=job_id)
    what = "run" if job.state == JobState.QUEUED else "version"
    record(session, "job.refused", {"by": by, "what": what}, job_id=job.id)
    if what == "version":
        refuse_version(session, job)
    to = JobState.CANCELLED if what == "run" else JobState.FAILED
    advance_job(session, job.id, to, reason=Reason.APPROVAL_REFUSED)
    return get_job(session, tenant_id=tenant_id, job_id=job_id)


def _awaiting(session: Session, *, tenant_id: UUID, job_id: UUID) -> Job:
    """A job that waits for approval, locked, and its model with it; one that is only about to wait is frozen for it."""
    model_id = find_job(session, tenant_id=tenant_id, job_id=job_id).model_id
    model = session.get_one(Model, model_id, with_for_update={"key_share": True}, populate_existing=True)
    job = session.get_one(Job, job_id, with_for_update={"key_share": True}, populate_existing=True)
    closed = job.closed_at is not None or job.closes_at <= now(session)
    if model.approve_jobs and job.state == JobState.QUEUED and job.approved_at is None and closed:
        if job.closed_at is None:
            close_job(session, job)
    elif job.finished_at is not None or job.phase != Phase.AWAITING_APPROVAL:
        raise NotAwaiting(f"the job does not wait for approval; it is {job.state}, in the phase {job.phase}")
    return job


def _result(session: Session, job: Job) -> tuple[ModelVersion, Report]:
    version = session.scalars(select(ModelVersion).where(ModelVersion.job_id == job.id)).one()
    return version, session.scalars(select(Report).where(Report.job_id == job.id)).one()
