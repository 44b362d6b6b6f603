"""Submission: record a request, match its samples with each model, and let it join the models' jobs."""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import Column, FromClause, select
from sqlalchemy.orm import Session

from ledger import resources
from ledger.db import allow_long_statements, now
from ledger.errors import InvalidTime, NoSamplesMatch, UnknownUpload
from ledger.events.outbox import announce_wakeup
from ledger.events.timeline import record
from ledger.jobs.transitions import advance, fold_requests
from ledger.registry.datasets import find_datasets
from ledger.requests.batching import join_job
from ledger.requests.deadlines import due_at, offset_seconds, rule
from ledger.requests.idempotency import Idempotency, find_replay, store_key
from ledger.requests.matching import (
    digest_tables,
    match_models,
    record_datasets,
    record_samples,
    record_subjects,
    samples_of,
    touched_models,
)
from ledger.requests.requests import get_request
from ledger.requests.uploads import find_upload
from ledger.sample_ids import joined_sha256, samples_sha256
from ledger.states import Escalation, Reason, RequestState
from ledger.tables import Dataset, Model, Target, UnlearnRequest, Upload
from ledger.tables.samples import request_samples, request_subjects, uploaded_samples
from ledger.transparency.log import log_request

CHUNK = 10_000
"""Digests that are in memory at a time while they are committed to."""

FIRST_YEAR = 2000
"""No request under a law that this service knows is older."""

MAX_CLOCK_SKEW = timedelta(minutes=5)
"""How far a caller's clock may be ahead of the database's."""


def submit(
    session: Session,
    *,
    tenant_id: UUID,
    caller: str,
    dataset: str | Sequence[str] | None,
    digests: Sequence[bytes] = (),
    subjects: Sequence[bytes] = (),
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
    """Record a request to erase samples from the named models, or from every model of the datasets, and let it join their jobs.

    digests: of samples of the one dataset; subjects: digests of people whose samples are meant, in every dataset of the tenant if
    `dataset` is None, or in those of the named models. Or upload_id: of a list of either that was uploaded. What is given twice, or
    in both ways, counts once.
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
    upload = None if upload_id is None else find_upload(session, tenant_id=tenant_id, upload_id=upload_id)
    datasets = _datasets(session, tenant_id, dataset, upload)
    touched = touched_models(session, datasets, models)
    unlimited = dataset is None and (upload is None or upload.dataset_id is None)
    if unlimited and models:
        learned = {model.dataset_id for model in touched}
        datasets = [one for one in datasets if one.id in learned]
    moment = now(session)
    received_at = received_at or moment
    check_receipt(received_at, moment)
    request = UnlearnRequest(
        tenant_id=tenant_id,
        dataset_id=datasets[0].id,
        every_dataset=unlimited and not models,
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
    commitments = _match(session, request, datasets, touched, digests=digests, subjects=subjects, upload=upload)
    targets = _add_targets(session, request, touched, named=models is not None, window=batch_window)
    record_datasets(session, request, datasets, targets)
    fold_requests(session, [request.id])
    if idempotency is not None:
        store_key(session, tenant_id=tenant_id, caller=caller, idempotency=idempotency, request_id=request.id)
    session.flush()
    log_request(session, request, **commitments)
    return get_request(session, tenant_id=tenant_id, request_id=request.id)


def check_receipt(received_at: datetime, moment: datetime) -> None:
    """Check when a person asked, at this moment. Raises InvalidTime for a time in the future, and for one before any such law."""
    if received_at.year < FIRST_YEAR:
        raise InvalidTime(f"received_at must be in the year {FIRST_YEAR} or later")
    if received_at.tzinfo is not None and received_at > moment + MAX_CLOCK_SKEW:
        raise InvalidTime(f"received_at must not be in the future; now is {moment.isoformat(timespec='seconds')}")


def _datasets(
    session: Session, tenant_id: UUID, dataset: str | Sequence[str] | None, upload: Upload | None
) -> list[Dataset]:
    """Find the datasets in which a request means samples, by name. Raises UnknownDataset, UnknownUpload, NoSamplesMatch."""
    if upload is not None and upload.dataset_id is not None:
        own = session.get_one(Dataset, upload.dataset_id)
        if dataset not in (None, own.name, [own.name], (own.name,)):
            raise UnknownUpload(f"the upload {upload.id} is of another dataset")
        return [own]
    found = find_datasets(session, tenant_id=tenant_id, names=[dataset] if isinstance(dataset, str) else dataset)
    if not found:
        raise NoSamplesMatch("there is no dataset yet")
    return found


def _match(
    session: Session,
    request: UnlearnRequest,
    datasets: Sequence[Dataset],
    models: Sequence[Model],
    *,
    digests: Sequence[bytes],
    subjects: Sequence[bytes],
    upload: Upload | None,
) -> dict[str, str]:
    """Record the request's people and samples. Gives the SHA-256 that commits to its samples, and the one to its people."""
    tables: list[FromClause] = list(digest_tables(digests))
    people: list[FromClause] = list(digest_tables([*dict.fromkeys(subjects)]))
    if upload is not None:
        mine = select(uploaded_samples.c.digest).where(uploaded_samples.c.upload_id == upload.id).subquery()
        (people if upload.dataset_id is None else tables).append(mine)
    if upload is not None or people:
        allow_long_statements(session)
    if people:
        record_subjects(session, request, datasets, people)
        tables += samples_of(datasets, people)
    record_samples(session, request, models, tables)
    if people:
        samples = _commitment(session, request, request_samples.c.request_id, request_samples.c.digest)
        whose = _commitment(session, request, request_subjects.c.request_id, request_subjects.c.subject)
        return {"samples_sha256": samples, "subjects_sha256": whose}
    return {"samples_sha256": samples_sha256(digests) if upload is None else upload.sha256}


def _commitment(session: Session, request: UnlearnRequest, owner: Column[object], digest: Column[bytes]) -> str:
    """Commit to the samples, or to the people, that a request has in a table: the SHA-256 of their sorted digests."""
    ordered = select(digest).where(owner == request.id).order_by(digest)
    with session.scalars(ordered.execution_options(yield_per=CHUNK)) as digests:
        return joined_sha256(digests)


def _add_targets(
    session: Session, request: UnlearnRequest, models: Sequence[Model], *, named: bool, window: timedelta
) -> list[Model]:
    """Add a target for each model, and give these models. A target joins a job, or ends at once if it has nothing to erase.

    The jobs of all models are locked, in the order of the models, before the first wake-up is announced.

    A model that was trained on none of the samples gets a target only if the caller named it.
    """
    total = request.accepted + request.already_erased + request.not_in_training_set
    wakeups: list[tuple[UUID, datetime | None]] = []
    targets: list[Model] = []
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
        targets.append(model)
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
    return targets
