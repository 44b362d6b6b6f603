"""Submission: record a request, match its samples with each model, and let it join the models' jobs."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import FromClause, select
from sqlalchemy.orm import Session

from ledger import resources
from ledger.db import allow_long_statements, now
from ledger.errors import InvalidTime, UnknownUpload
from ledger.events.outbox import announce_wakeup
from ledger.events.timeline import record
from ledger.jobs.transitions import advance, fold_requests
from ledger.registry.datasets import find_dataset
from ledger.requests.batching import join_job
from ledger.requests.deadlines import due_at, offset_seconds, rule
from ledger.requests.idempotency import Idempotency, find_replay, store_key
from ledger.requests.matching import digest_tables, match_models, record_samples, touched_models
from ledger.requests.requests import get_request
from ledger.requests.uploads import find_upload
from ledger.sample_ids import samples_sha256
from ledger.states import Escalation, Reason, RequestState
from ledger.tables import Model, Target, UnlearnRequest
from ledger.tables.samples import uploaded_samples
from ledger.transparency.log import log_request

FIRST_YEAR = 2000
"""No request under a law that this service knows is older."""

MAX_CLOCK_SKEW = timedelta(minutes=5)
"""How far a caller's clock may be ahead of the database's."""


def submit(
    session: Session,
    *,
    tenant_id: UUID,
    caller: str,
    dataset: str,
    digests: Sequence[bytes] = (),
    upload_id: UUID | None = None,
    models: Sequence[str] | None = None,
    method: Mapping[str, Any] | None = None,
    reason: str | None = None,
    regulation: str = "gdpr",
    received_at: datetime | None = None,
    external_id: str | None = None,
    expedite: bool = False,
    escalate: Escalation | None = None,
    batch_window: timedelta,
    idempotency: Idempotency | None = None,
) -> resources.UnlearnRequest:
    """Record a request to erase samples from the named models, or from every model of the dataset, and let it join their jobs.

    digests: of the samples, or upload_id: of a list that was uploaded. A sample that is given twice counts once.
    received_at: when the person asked, by default now. Deadlines count in its time zone.
    A request is completed at once if all of its samples were erased before.
    With the idempotency key of an earlier request, that request is returned and nothing is written.

    Raises UnknownDataset, UnknownModel, UnknownUpload, NoSamplesMatch, UnknownRegulation, InvalidTime, IdempotencyMismatch and
    IdempotencyInProgress. The caller's transaction must then be rolled back.
    """
    if idempotency is not None:
        earlier = find_replay(session, tenant_id=tenant_id, caller=caller, idempotency=idempotency)
        if earlier is not None:
            return get_request(session, tenant_id=tenant_id, request_id=earlier)
    of_dataset = find_dataset(session, tenant_id=tenant_id, name=dataset)
    touched = touched_models(session, of_dataset, models)
    moment = now(session)
    received_at = received_at or moment
    if received_at.year < FIRST_YEAR:
        raise InvalidTime(f"received_at must be in the year {FIRST_YEAR} or later")
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
        received_offset=offset_seconds(received_at),
        due_at=due_at(regulation, received_at),
        external_id=external_id,
        expedite=expedite,
        escalate=escalate,
    )
    session.add(request)
    session.flush()
    record(
        session,
        "request.received",
        {"due_at": request.due_at, "regulation": rule(regulation).title},
        request_id=request.id,
    )
    tables, commitment = _samples(session, request, digests, upload_id)
    record_samples(session, request, touched, tables)
    _add_targets(session, request, touched, named=models is not None, window=batch_window)
    fold_requests(session, [request.id])
    if idempotency is not None:
        store_key(session, tenant_id=tenant_id, caller=caller, idempotency=idempotency, request_id=request.id)
    session.flush()
    log_request(session, request, samples_sha256=commitment)
    return get_request(session, tenant_id=tenant_id, request_id=request.id)


def _samples(
    session: Session, request: UnlearnRequest, digests: Sequence[bytes], upload_id: UUID | None
) -> tuple[Iterable[FromClause], str]:
    """Give the request's samples as tables with the column `digest`, and the SHA-256 that commits to them."""
    if upload_id is None:
        return digest_tables(digests), samples_sha256(digests)
    upload = find_upload(session, tenant_id=request.tenant_id, upload_id=upload_id)
    if upload.dataset_id != request.dataset_id:
        raise UnknownUpload(f"the upload {upload_id} is of another dataset")
    allow_long_statements(session)
    mine = select(uploaded_samples.c.digest).where(uploaded_samples.c.upload_id == upload_id)
    return [mine.subquery()], upload.sha256


def _add_targets(
    session: Session, request: UnlearnRequest, models: Sequence[Model], *, named: bool, window: timedelta
) -> None:
    """Add a target for each model. It joins a job, or ends at once if the model has nothing to erase.

    The jobs of all models are locked, in the order of the models, before the first wake-up is announced.

    A model that was trained on none of the samples gets a target only if the caller named it.
    """
    total = request.accepted + request.already_erased + request.not_in_training_set
    wakeups: list[tuple[UUID, datetime | None]] = []
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
        data = {"model": model.name, "samples": learned - erased}
        if not learned:
            advance(session, Target, [target.id], RequestState.REJECTED, data=data, reason=Reason.NOT_IN_TRAINING_SET)
        elif learned == erased:
            advance(session, Target, [target.id], RequestState.COMPLETED, data=data, reason=Reason.ALREADY_ERASED)
        else:
            joined = join_job(
                session,
                model=model,
                method=request.method,
                samples=learned - erased,
                due_at=request.due_at,
                expedite=request.expedite,
                escalate=request.escalate,
                window=window,
            )
            wakeups += joined.wakeups
            advance(session, Target, [target.id], RequestState.SCHEDULED, data=data, job_id=joined.job.id)
    for job_id, at in wakeups:
        announce_wakeup(session, job_id, at=at)
