"""What may be seen of a job and of the attempts at it: plain data."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from typing import Any
from uuid import UUID

from sqlalchemy import Select, bindparam, func, select, true
from sqlalchemy.orm import Session, aliased

from ledger.db import Page, now, read_page
from ledger.errors import NotFailed, TooLate, UnknownJob, VersionRefused
from ledger.events.timeline import record
from ledger.jobs.transitions import advance_job
from ledger.states import LEASED, AttemptOutcome, ClosingReason, JobState, Phase, Reason, RequestState, Verdict
from ledger.tables import Attempt, Dataset, Job, Model, ModelVersion, Report, Target, UnlearnRequest


@dataclass(frozen=True, slots=True, kw_only=True)
class JobView:
    """One unlearning run of one model.

    `samples` is the size of the frozen manifest, None before the cut-off; `requests` counts those it serves; `due_at` is the
    earliest deadline among them; `progress` runs from 0 to 1; `eta_seconds` and `timings` are in seconds; `updated_at` moves
    with every change.
    """

    id: UUID
    model: str
    dataset: str
    state: JobState
    reason: Reason | None
    detail: str | None
    phase: Phase
    progress: float
    step: int
    total: int
    eta_seconds: float | None
    metrics: Mapping[str, Any]
    timings: Mapping[str, Any]
    attempt: int
    method: Mapping[str, Any]
    policy: tuple[Mapping[str, Any], ...]
    cut_off: datetime
    cut_off_reason: ClosingReason
    frozen_at: datetime | None
    samples: int | None
    requests: int
    due_at: datetime | None
    approved_by: str | None
    approved_at: datetime | None
    cancel_requested: bool
    base_version: int | None
    version: int | None
    report_id: UUID | None
    verdict: Verdict | None
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    updated_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptView:
    """One worker's go at a job; `finding` is what the audit found when it was not good enough to publish."""

    number: int
    method: Mapping[str, Any]
    worker: str
    outcome: AttemptOutcome | None
    reason: Reason | None
    detail: str | None
    finding: Mapping[str, Any] | None
    timings: Mapping[str, Any]
    started_at: datetime
    finished_at: datetime | None


def job_views(session: Session, jobs: Sequence[Job]) -> list[JobView]:
    """The views of some jobs, in their order."""
    chosen = with_facts().where(Job.id.in_([job.id for job in jobs]))
    views = {job.id: job_view(job, *facts) for job, *facts in session.execute(chosen)}
    return [views[job.id] for job in jobs]


@cache
def with_facts() -> Select[Any]:
    """Jobs, each with what else its view shows: a row is what `job_view` takes. One statement, because jobs are polled."""
    made = aliased(ModelVersion)
    served = (
        select(func.count().label("requests"), func.min(UnlearnRequest.due_at).label("due_at"))
        .select_from(Target)
        .join(UnlearnRequest, UnlearnRequest.id == Target.request_id)
        .where(Target.job_id == Job.id, Target.state != RequestState.CANCELLED)
        .lateral()
    )
    return (
        select(
            Job,
            Model.name,
            Dataset.name,
            ModelVersion.number,
            made.number,
            Report.id,
            Report.verdict,
            served.c.requests,
            served.c.due_at,
        )
        .join(Model, Model.id == Job.model_id)
        .join(Dataset, Dataset.id == Model.dataset_id)
        .outerjoin(ModelVersion, ModelVersion.id == Job.base_version_id)
        .outerjoin(made, made.job_id == Job.id)
        .outerjoin(Report, Report.job_id == Job.id)
        .join(served, true())
    )


def job_view(
    job: Job,
    model: str,
    dataset: str,
    base_version: int | None,
    version: int | None,
    report_id: UUID | None,
    verdict: Verdict | None,
    requests: int,
    due_at: datetime | None,
) -> JobView:
    """The view of one job, from a row of `with_facts`."""
    return JobView(
        id=job.id,
        model=model,
        dataset=dataset,
        state=job.state,
        reason=job.reason,
        detail=job.detail,
        phase=job.phase,
        progress=job.progress,
        step=job.step,
        total=job.total,
        eta_seconds=job.eta_seconds,
        metrics=job.metrics,
        timings=job.timings,
        attempt=job.attempt,
        method=job.method,
        policy=tuple(job.policy),
        cut_off=job.closes_at,
        cut_off_reason=job.closing_reason,
        frozen_at=job.closed_at,
        samples=job.sample_count,
        requests=requests,
        due_at=due_at,
        approved_by=job.approved_by,
        approved_at=job.approved_at,
        cancel_requested=job.cancel_requested,
        base_version=base_version,
        version=version,
        report_id=report_id,
        verdict=verdict,
        created_at=job.created_at,
        started_at=job.started_at,
        finished_at=job.finished_at,
        updated_at=job.updated_at,
    )


def attempt_view(attempt: Attempt) -> AttemptView:
    """The view of one attempt."""
    return AttemptView(
        number=attempt.number,
        method=attempt.method,
        worker=attempt.worker,
        outcome=attempt.outcome,
        reason=attempt.reason,
        detail=attempt.detail,
        finding=attempt.finding,
        timings=attempt.timings,
        started_at=attempt.started_at,
        finished_at=attempt.finished_at,
    )


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
    stop_job(session, job)
    session.flush()
    return job_views(session, [job])[0]


def stop_job(session: Session, job: Job) -> None:
    """Cancel a locked job that has not ended: at once while nobody holds it, else by asking whoever does."""
    if job.state == JobState.QUEUED:
        advance_job(session, job.id, JobState.CANCELLED, reason=Reason.CANCELLED_BY_CALLER)
    elif job.state in LEASED and job.phase == Phase.AWAITING_APPROVAL:
        refuse_version(session, job)
        advance_job(session, job.id, JobState.CANCELLED, reason=Reason.CANCELLED_BY_CALLER)
    elif job.state in LEASED and not job.cancel_requested:
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
