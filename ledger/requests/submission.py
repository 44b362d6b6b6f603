"""Requests: what was asked. Submitting one decides what it means for each model and lets it join their jobs."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, TypeVar
from uuid import UUID

from sqlalchemy import FromClause, Select, select
from sqlalchemy.orm import Session

from ledger import resources
from ledger.db import now
from ledger.errors import InvalidTime, TooLate, UnknownUpload
from ledger.events.timeline import record
from ledger.jobs.jobs import stop_job
from ledger.jobs.transitions import advance, fold_requests
from ledger.registry.datasets import find_dataset
from ledger.requests.batching import join_job
from ledger.requests.deadlines import due_at, rule
from ledger.requests.idempotency import Idempotency, find_replay, store_key
from ledger.requests.matching import digest_tables, match_models, record_samples, touched_models
from ledger.requests.requests import find_request, get_request
from ledger.requests.uploads import find_upload
from ledger.sample_ids import samples_sha256
from ledger.states import Reason, RequestState
from ledger.tables import Job, Model, Target, UnlearnRequest
from ledger.tables.samples import uploaded_samples
from ledger.transparency.log import log_request

Row = TypeVar("Row", Job, Target)

MAX_CLOCK_SKEW = timedelta(minutes=5)
"""How much a caller's clock may be ahead of the database's."""


def submit(
    session: Session,
    *,
    tenant_id: UUID,
    caller: str,
    dataset: str,
    digests: Sequence[bytes] = (),
    manifest_id: UUID | None = None,
    models: Sequence[str] | None = None,
    method: Mapping[str, Any] | None = None,
    reason: str | None = None,
    regulation: str = "gdpr",
    received_at: datetime | None = None,
    external_id: str | None = None,
    expedite: bool = False,
    batch_window: timedelta,
    idempotency: Idempotency | None = None,
) -> resources.UnlearnRequest:
    """Record a request to erase samples, for the models named or for every model of the dataset, and let it join their jobs.

    The samples are `digests`, or those of an uploaded manifest; one given twice is one. `received_at` is when the person asked, by
    default now. A request whose samples have all been erased before is completed at once. With the idempotency key of an earlier
    request, that request is returned and nothing is written.

    Raises UnknownDataset, UnknownModel, UnknownUpload, NoSamplesMatch, UnknownRegulation, InvalidTime, IdempotencyMismatch and
    IdempotencyInProgress; the caller's transaction must then be rolled back.
    """
    if idempotency is not None:
        earlier = find_replay(session, tenant_id=tenant_id, caller=caller, idempotency=idempotency)
        if earlier is not None:
            return get_request(session, tenant_id=tenant_id, request_id=earlier)
    of_dataset = find_dataset(session, tenant_id=tenant_id, name=dataset)
    touched = touched_models(session, of_dataset, models)
    moment = now(session)
    received_at = received_at or moment
    if received_at.tzinfo is not None and received_at > moment + MAX_CLOCK_SKEW:
        raise InvalidTime(f"received_at must not be in the future; now is {moment.isoformat(timespec='seconds')}")
    request = UnlearnRequest(
        tenant_id=tenant_id,
        dataset_id=of_dataset.id,
        caller=caller,
        method=dict(method) if method is not None else None,
        reason=reason,
        regulation=regulation,
        received_at=received_at,
        due_at=due_at(regulation, received_at),
        external_id=external_id,
        expedite=expedite,
    )
    session.add(request)
    session.flush()
    record(
        session,
        "request.received",
        {"due_at": request.due_at, "regulation": rule(regulation).title},
        request_id=request.id,
    )
    tables, commitment = _samples(session, request, digests, manifest_id)
    record_samples(session, request, touched, tables)
    _add_targets(session, request, touched, named=models is not None, window=batch_window)
    fold_requests(session, [request.id])
    if idempotency is not None:
        store_key(session, tenant_id=tenant_id, caller=caller, idempotency=idempotency, request_id=request.id)
    session.flush()
    log_request(session, request, samples_sha256=commitment)
    return get_request(session, tenant_id=tenant_id, request_id=request.id)


def _samples(
    session: Session, request: UnlearnRequest, digests: Sequence[bytes], manifest_id: UUID | None
) -> tuple[Iterable[FromClause], str]:
    """What is asked for, as tables with the column `digest`, and the commitment to it."""
    if manifest_id is None:
        return digest_tables(digests), samples_sha256(digests)
    manifest = find_upload(session, tenant_id=request.tenant_id, manifest_id=manifest_id)
    if manifest.dataset_id != request.dataset_id:
        raise UnknownUpload(f"the manifest {manifest_id} is one of another dataset")
    mine = select(uploaded_samples.c.digest).where(uploaded_samples.c.manifest_id == manifest_id)
    return [mine.subquery()], manifest.sha256


def _add_targets(
    session: Session, request: UnlearnRequest, models: Sequence[Model], *, named: bool, window: timedelta
) -> None:
    """One target for each model: it joins a job, or is settled at once when there is nothing to erase.

    A model that was trained on none of the samples gets a target only if the caller named it.
    """
    total = request.accepted + request.already_erased + request.not_in_training_set
    for model, learned, erased in match_models(session, request, models):
        if not learned and not named:
            continue
        target = Target(
            request_id=request.id,
            model_id=model.id,
            accepted=learned - erased,
            already_erased=erased,
            not_in_training_set=total - learned,
        )
        session.add(target)
        session.flush()
        told = {"model": model.name, "samples": learned - erased}
        if not learned:
            advance(session, Target, [target.id], RequestState.REJECTED, data=told, reason=Reason.NOT_IN_TRAINING_SET)
        elif learned == erased:
            advance(session, Target, [target.id], RequestState.COMPLETED, data=told, reason=Reason.ALREADY_ERASED)
        else:
            job = join_job(
                session,
                model=model,
                method=request.method,
                samples=learned - erased,
                due_at=request.due_at,
                expedite=request.expedite,
                window=window,
            )
            advance(session, Target, [target.id], RequestState.SCHEDULED, data=told, job_id=job.id)


def extend_deadline(session: Session, *, tenant_id: UUID, request_id: UUID, reason: str) -> resources.UnlearnRequest:
    """Extend an open request's deadline, once, by what its regulation allows (GDPR: two months), for a reason.

    Raises UnknownRequest, TooLate when it is finished, overdue or extended already, and ValueError without a reason.
    """
    if not reason.strip():
        raise ValueError("an extension needs a reason, which the person must be told (GDPR Art. 12(3))")
    find_request(session, tenant_id=tenant_id, request_id=request_id)
    request = session.get_one(UnlearnRequest, request_id, with_for_update={"key_share": True}, populate_existing=True)
    if request.extension_reason is not None or request.finished_at is not None or request.due_at <= now(session):
        raise TooLate("only an open request that is not overdue and not extended yet can be extended")
    request.due_at = due_at(request.regulation, request.received_at, extended=True)
    request.extension_reason = reason
    record(session, "request.extended", {"due_at": request.due_at, "reason": reason}, request_id=request.id)
    session.flush()
    return get_request(session, tenant_id=tenant_id, request_id=request.id)


def cancel_request(session: Session, *, tenant_id: UUID, request_id: UUID) -> resources.UnlearnRequest:
    """Withdraw a request, for every model that has not been dealt with; again does nothing.

    Until its job's manifest is frozen it simply leaves the job, which ends when nobody is left on it. After that the job itself is
    cancelled, if it serves no other request. Raises UnknownRequest, and TooLate, then for all of its models, when that can not be.
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
        raise TooLate(f"the request has {request.state} already; it can not be cancelled")
    for target in targets:
        job = jobs[target.job_id] if target.job_id else None
        assert job is not None  # the database sees to it: an open target is on a job
        others = session.scalar(
            select(Target.id).where(Target.job_id == job.id, Target.id != target.id, still_open).limit(1)
        )
        if job.closed_at is not None and others is not None:
            raise TooLate(
                "the job's manifest is frozen and it serves other requests too; the request can not leave it any more"
            )
        if job.closed_at is None:
            told = {"model": session.get_one(Model, job.model_id).name}
            advance(
                session,
                Target,
                [target.id],
                RequestState.CANCELLED,
                data=told,
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
