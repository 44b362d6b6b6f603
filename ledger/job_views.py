"""What may be seen of a job and of the attempts at it: plain data."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from typing import Any
from uuid import UUID

from sqlalchemy import Select, func, select, true
from sqlalchemy.orm import Session, aliased

from ledger.states import AttemptOutcome, CutOffReason, JobState, Phase, Reason, RequestState, Verdict
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
    cut_off_reason: CutOffReason
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
        cut_off=job.cut_off,
        cut_off_reason=job.cut_off_reason,
        frozen_at=job.frozen_at,
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
