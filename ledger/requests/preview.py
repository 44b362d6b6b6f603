"""Previews: what a request would do if it were submitted now."""

from collections.abc import Callable
from uuid import UUID

from sqlalchemy import select
from sqlalchemy.orm import Session

from ledger import resources
from ledger.jobs.estimates import estimate, plan, verdict_chance
from ledger.tables import Job


def preview(session: Session, submit: Callable[[], resources.UnlearnRequest]) -> resources.Preview:
    """Submit a request behind a savepoint, read the result with estimates, and roll it back.

    submit: submits the request and returns it with its counts. Raises what `submit` raises.
    """
    with session.begin_nested() as savepoint:
        request = submit()
        targets = [_estimated(session, target, request) for target in request.targets]
        savepoint.rollback()
    joined = [target.job.id for target in targets if target.job is not None]
    existing = set(session.scalars(select(Job.id).where(Job.id.in_(joined))))
    assert request.samples is not None  # `submit` hides nothing
    assert request.dataset is not None
    return resources.Preview(
        dataset=request.dataset,
        datasets=request.datasets,
        every_dataset=request.every_dataset,
        samples=request.samples,
        subjects=request.subjects,
        samples_by_subject=request.samples_by_subject,
        unmatched_sample_ids=request.unmatched_sample_ids,
        unmatched_lines=request.unmatched_lines,
        targets=tuple(_without_new_job(target, existing) for target in targets),
        received_at=request.received_at,
        due_at=request.due_at,
    )


def _estimated(
    session: Session, target: resources.Target, request: resources.UnlearnRequest
) -> resources.PreviewTarget:
    job_id = target.job.id if target.job is not None else None
    found = estimate(session, job_id=job_id) if job_id is not None else None
    in_time = None if found is None else found.finish_at <= request.due_at
    methods = plan(session, job_id=job_id) if job_id is not None else ()
    chance = None if job_id is None else verdict_chance(session, job_id=job_id)
    return resources.PreviewTarget(
        **dict(target), estimate=found, meets_deadline=in_time, methods=methods, verdict_chance=chance
    )


def _without_new_job(target: resources.PreviewTarget, existing: set[UUID]) -> resources.PreviewTarget:
    """Remove the id of a job that only the savepoint knew."""
    if target.job is None or target.job.id in existing:
        return target
    return target.model_copy(update={"job": target.job.model_copy(update={"id": None})})
