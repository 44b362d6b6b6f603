"""The ends of a request without an erasure: it is withdrawn by the caller, or dismissed by an admin."""

from typing import TypeVar
from uuid import UUID

from sqlalchemy import Select, select
from sqlalchemy.orm import Session

from ledger import resources
from ledger.db import now
from ledger.errors import TooLate
from ledger.events.timeline import record
from ledger.jobs.cancellation import keep_asked_samples, stop_job
from ledger.jobs.transitions import advance, fold_requests
from ledger.requests.requests import find_request, get_request
from ledger.states import LEASED, TERMINAL, Reason, RequestState
from ledger.tables import Job, Model, Target, UnlearnRequest
from ledger.transparency.log import log_dismissal

Row = TypeVar("Row", Job, Target)


def cancel_request(session: Session, *, tenant_id: UUID, request_id: UUID) -> resources.UnlearnRequest:
    """Withdraw a request for every model that has not erased its samples. Withdrawing it again changes nothing.

    The request leaves a job that waits or has failed, with the samples that nobody else asks for; a failed job loses these at its
    retry. A job that serves no other request is cancelled. Raises UnknownRequest, and TooLate, for all of its models, if nothing is
    left to withdraw, or if one of its jobs serves other requests too and a worker runs it or its version awaits approval.
    """
    request = find_request(session, tenant_id=tenant_id, request_id=request_id)
    jobs = {job.id: job for job in _lock_jobs(session, request_id)}
    session.refresh(request, with_for_update={"key_share": True})
    targets = list(
        session.scalars(_locked(Target).where(Target.request_id == request_id).order_by(Target.model_id, Target.id))
    )
    if request.dismissed_at is not None:
        raise TooLate("the request was dismissed; it cannot be cancelled")
    still_open = [target for target in targets if target.finished_at is None]
    failed = [target for target in targets if target.state == RequestState.FAILED]
    refused = [target for target in targets if target.reason == Reason.APPROVAL_REFUSED and target not in failed]
    if not (still_open or failed or refused) and request.state != RequestState.CANCELLED:
        raise TooLate(f"the request has {request.state} already; it cannot be cancelled")
    for target in still_open:
        assert target.job_id is not None  # the database ensures that an open target has a job
        _withdraw(session, jobs[target.job_id], target)
    for target in failed:
        assert target.job_id is not None  # a request whose failed target has left its job was dismissed
        _leave(session, jobs[target.job_id], target)
    for target in refused:
        target.reason = Reason.CANCELLED_BY_CALLER
    fold_requests(session, [request_id])
    if refused and request.state == RequestState.CANCELLED and not (still_open or failed):
        record(session, "request.cancelled", {"reason": Reason.CANCELLED_BY_CALLER}, request_id=request_id)
    session.flush()
    return get_request(session, tenant_id=tenant_id, request_id=request.id)


def _withdraw(session: Session, job: Job, target: Target) -> None:
    """Take a locked target that is open out of its locked job, and stop a job that serves no other request. Raises TooLate."""
    other = select(Target.id).where(Target.job_id == job.id, Target.id != target.id, Target.finished_at.is_(None))
    serves_others = session.scalar(other.limit(1)) is not None
    if serves_others and job.holds_model:
        doing = "is running" if job.state in LEASED else "has made a version, which awaits approval,"
        raise TooLate(f"the job {doing} and serves other requests too; the request cannot be taken out of it now")
    if serves_others or job.closed_at is None:
        _leave(session, job, target)
    if not serves_others:
        stop_job(session, job)
    elif job.closed_at is not None:
        keep_asked_samples(session, job)


def _leave(session: Session, job: Job, target: Target) -> None:
    """Cancel a locked target and take it out of its locked job, which waits or has failed."""
    data = {"model": session.get_one(Model, job.model_id).name}
    reason = Reason.CANCELLED_BY_CALLER
    advance(session, Target, [target.id], RequestState.CANCELLED, data=data, reason=reason, detail=None, job_id=None)
    record(session, "job.left", {}, job_id=job.id)


def dismiss_request(
    session: Session, *, tenant_id: UUID, request_id: UUID, reason: str, by: str
) -> resources.UnlearnRequest:
    """Record that a request which ended without being served is no longer owed. reason: why not, for the record. by: who says so.

    It keeps its state. A retry of its jobs leaves it out. Raises UnknownRequest, ValueError without a reason, and TooLate for a
    request that is open, or that is not owed any more.
    """
    if not reason.strip():
        raise ValueError("a dismissal needs a reason")
    find_request(session, tenant_id=tenant_id, request_id=request_id)
    _lock_jobs(session, request_id)  # A retry that runs at this moment either leaves the request out, or is seen here.
    request = session.get_one(UnlearnRequest, request_id, with_for_update={"key_share": True}, populate_existing=True)
    if request.state not in TERMINAL:
        raise TooLate(f"only a request that has ended can be dismissed; this one is {request.state}: cancel it instead")
    owed = select(UnlearnRequest.id).where(UnlearnRequest.id == request_id, UnlearnRequest.is_unserved())
    if session.scalar(owed) is None:
        raise TooLate("the request was served, withdrawn or dismissed already")
    request.dismissed_at, request.dismissed_by, request.dismissal_reason = now(session), by, reason
    record(session, "request.dismissed", {"by": by, "reason": reason}, request_id=request_id)
    session.flush()
    log_dismissal(session, request)
    return get_request(session, tenant_id=tenant_id, request_id=request_id)


def _lock_jobs(session: Session, request_id: UUID) -> list[Job]:
    """Lock the jobs of a request's targets, in the order in which all lock them."""
    mine = select(Target.job_id).where(Target.request_id == request_id)
    return list(session.scalars(_locked(Job).where(Job.id.in_(mine)).order_by(Job.model_id, Job.id)))


def _locked(table: type[Row]) -> Select[Row]:
    return select(table).with_for_update(key_share=True).execution_options(populate_existing=True)
