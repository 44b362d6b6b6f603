"""Cancellation of a request, for every model that has not erased its samples yet."""

from typing import TypeVar
from uuid import UUID

from sqlalchemy import Select, select
from sqlalchemy.orm import Session

from ledger import resources
from ledger.errors import TooLate
from ledger.events.timeline import record
from ledger.jobs.cancellation import stop_job
from ledger.jobs.transitions import advance, fold_requests
from ledger.requests.requests import find_request, get_request
from ledger.states import Reason, RequestState
from ledger.tables import Job, Model, Target

Row = TypeVar("Row", Job, Target)


def cancel_request(session: Session, *, tenant_id: UUID, request_id: UUID) -> resources.UnlearnRequest:
    """Cancel a request for every model whose target has not ended. Cancelling it again changes nothing.

    The request leaves a job that has not closed. A job that serves no other request is cancelled, closed or not.
    Raises UnknownRequest, and TooLate, for all of its models, if one of its jobs has closed and serves other requests.
    """
    request = find_request(session, tenant_id=tenant_id, request_id=request_id)
    mine = select(Target.job_id).where(Target.request_id == request_id)
    jobs = {job.id: job for job in session.scalars(_locked(Job).where(Job.id.in_(mine)).order_by(Job.model_id, Job.id))}
    still_open = Target.finished_at.is_(None)
    targets = list(
        session.scalars(_locked(Target).where(Target.request_id == request_id, still_open).order_by(Target.model_id))
    )
    session.refresh(request)
    if not targets and request.state != RequestState.CANCELLED:
        raise TooLate(f"the request has {request.state} already; it cannot be cancelled")
    for target in targets:
        job = jobs[target.job_id] if target.job_id else None
        assert job is not None  # the database ensures that an open target has a job
        others = session.scalar(
            select(Target.id).where(Target.job_id == job.id, Target.id != target.id, still_open).limit(1)
        )
        if job.closed_at is not None and others is not None:
            raise TooLate(
                "the job has closed and serves other requests too; the request can no longer be taken out of it"
            )
        if job.closed_at is None:
            data = {"model": session.get_one(Model, job.model_id).name}
            advance(
                session,
                Target,
                [target.id],
                RequestState.CANCELLED,
                data=data,
                reason=Reason.CANCELLED_BY_CALLER,
                job_id=None,
            )
            record(session, "job.left", {}, job_id=job.id)
        if others is None:
            stop_job(session, job)
    fold_requests(session, [request_id])
    session.flush()
    return get_request(session, tenant_id=tenant_id, request_id=request.id)


def _locked(table: type[Row]) -> Select[Row]:
    return select(table).with_for_update(key_share=True).execution_options(populate_existing=True)
