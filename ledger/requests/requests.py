"""Requests: read them. One statement reads a request with all that is shown of it, because requests are polled."""

from collections.abc import Sequence
from datetime import datetime
from functools import cache
from typing import Any
from uuid import UUID

from sqlalchemy import ScalarSelect, Select, bindparam, func, select
from sqlalchemy.orm import Session, aliased

from ledger import resources
from ledger.errors import UnknownRequest
from ledger.paging import read_page
from ledger.registry.models import find_model
from ledger.states import RequestState, SampleOutcome, Verdict
from ledger.tables import Dataset, Job, Model, ModelVersion, Report, Target, UnlearnRequest
from ledger.tables.samples import request_datasets, request_samples, request_subjects


def get_request(session: Session, *, tenant_id: UUID, request_id: UUID) -> resources.UnlearnRequest:
    """Read one request. Raises UnknownRequest."""
    found = _read(session, _one_request(), request_id=request_id, tenant_id=tenant_id)
    if not found:
        raise UnknownRequest(f"there is no request {request_id}")
    return found[0]


def list_requests(
    session: Session,
    *,
    tenant_id: UUID,
    state: RequestState | None = None,
    model: str | None = None,
    due_before: datetime | None = None,
    is_open: bool | None = None,
    unserved: bool | None = None,
    overdue: bool = False,
    cursor: str | None = None,
    limit: int = 50,
) -> resources.Page[resources.UnlearnRequest]:
    """List a tenant's requests, newest first: all, or those that fulfil each condition that is given.

    A request is open until it has ended, and unserved while the law asks for it (`UnlearnRequest.is_unserved`). It is overdue if it
    is unserved after its date. Raises UnknownModel, InvalidCursor.
    """
    chosen = select(UnlearnRequest).where(UnlearnRequest.tenant_id == tenant_id)
    if state is not None:
        chosen = chosen.where(UnlearnRequest.state == state)
    if model is not None:
        of_model = find_model(session, tenant_id=tenant_id, name=model)
        chosen = chosen.where(UnlearnRequest.id.in_(select(Target.request_id).where(Target.model_id == of_model.id)))
    if due_before is not None:
        chosen = chosen.where(UnlearnRequest.due_at < due_before)
    if is_open is not None:
        chosen = chosen.where(UnlearnRequest.finished_at.is_(None) == is_open)
    if unserved is not None:
        chosen = chosen.where(UnlearnRequest.is_unserved() if unserved else ~UnlearnRequest.is_unserved())
    if overdue:
        chosen = chosen.where(UnlearnRequest.is_unserved(), UnlearnRequest.due_at <= func.clock_timestamp())
    rows, next_cursor = read_page(session, chosen, UnlearnRequest, cursor=cursor, limit=limit)
    found = _read(session, _all_requests().where(UnlearnRequest.id.in_([row.id for row in rows])))
    by_id = {request.id: request for request in found}
    items = [by_id[row.id] for row in rows]
    return resources.Page[resources.UnlearnRequest](items=items, next_cursor=next_cursor)


def find_request(session: Session, *, tenant_id: UUID, request_id: UUID) -> UnlearnRequest:
    """Find the row of a tenant's request, read now. Raises UnknownRequest."""
    chosen = select(UnlearnRequest).where(UnlearnRequest.id == request_id, UnlearnRequest.tenant_id == tenant_id)
    request = session.scalar(chosen.execution_options(populate_existing=True))
    if request is None:
        raise UnknownRequest(f"there is no request {request_id}")
    return request


def list_request_samples(session: Session, request_id: UUID, outcome: SampleOutcome) -> list[bytes]:
    """List the digests of a request's samples with one outcome."""
    mine = request_samples.c.request_id == request_id, request_samples.c.outcome == outcome
    return list(session.scalars(select(request_samples.c.digest).where(*mine)))


def count_subject_samples(session: Session, request_id: UUID) -> dict[bytes, int]:
    """Give how many samples each subject of a request had in its datasets when it came."""
    chosen = select(request_subjects.c.subject, request_subjects.c.samples)
    return dict(session.execute(chosen.where(request_subjects.c.request_id == request_id)).all())


@cache
def _all_requests() -> Select[*tuple[Any, ...]]:
    """Select requests with all that is shown of them, a row for each target."""
    return (
        select(
            UnlearnRequest,
            Dataset.name,
            _further_datasets(),
            UnlearnRequest.is_unserved().label("unserved"),
            Target,
            Model.name,
            Job,
            ModelVersion.number,
            Report.id,
            Report.verdict,
        )
        .join(Dataset, Dataset.id == UnlearnRequest.dataset_id)
        .outerjoin(Target, Target.request_id == UnlearnRequest.id)
        .outerjoin(Model, Model.id == Target.model_id)
        .outerjoin(Job, Job.id == Target.job_id)
        .outerjoin(ModelVersion, ModelVersion.job_id == Target.job_id)
        .outerjoin(Report, Report.job_id == Target.job_id)
        .order_by(Model.name)
    )


def _further_datasets() -> ScalarSelect[list[str] | None]:
    """Select the names of a request's datasets beside its first; null if it has one."""
    other = aliased(Dataset)
    named = select(func.array_agg(other.name)).join(request_datasets, request_datasets.c.dataset_id == other.id)
    return named.where(request_datasets.c.request_id == UnlearnRequest.id).scalar_subquery()


@cache
def _one_request() -> Select[*tuple[Any, ...]]:
    mine = UnlearnRequest.id == bindparam("request_id"), UnlearnRequest.tenant_id == bindparam("tenant_id")
    return _all_requests().where(*mine).execution_options(populate_existing=True)


def _read(session: Session, chosen: Select[*tuple[Any, ...]], **given: object) -> list[resources.UnlearnRequest]:
    """Read requests that are chosen from `_all_requests`, in any order; `given` are the statement's parameters."""
    requests: dict[UUID, tuple[UnlearnRequest, str, list[str], bool]] = {}
    targets: dict[UUID, list[resources.Target]] = {}
    for request, dataset, further, unserved, target, *facts in session.execute(chosen, given):
        requests[request.id] = request, dataset, sorted([dataset, *(further or ())]), unserved
        of_request = targets.setdefault(request.id, [])
        if target is not None:
            of_request.append(_to_target(target, *facts))
    return [
        _to_request(request, dataset, datasets, targets[request.id], unserved=unserved)
        for request, dataset, datasets, unserved in requests.values()
    ]


def _to_request(
    request: UnlearnRequest,
    dataset: str,
    datasets: Sequence[str],
    targets: Sequence[resources.Target],
    *,
    unserved: bool,
) -> resources.UnlearnRequest:
    given, matched = request.subjects_given, request.subjects_matched
    return resources.UnlearnRequest(
        id=request.id,
        dataset=dataset,
        datasets=tuple(datasets),
        every_dataset=request.every_dataset,
        state=request.state,
        targets=tuple(targets),
        samples=resources.SampleCounts.model_validate(request),
        subjects=None if given is None else resources.SubjectCounts(given=given, matched=matched or 0),
        method=request.method,
        reason=request.reason,
        regulation=request.regulation,
        received_at=request.received_at,
        due_at=request.due_at,
        unserved=unserved,
        extension_reason=request.extension_reason,
        external_id=request.external_id,
        expedite=request.expedite,
        escalate=request.escalate,
        created_at=request.created_at,
        finished_at=request.finished_at,
        dismissed_at=request.dismissed_at,
        dismissed_by=request.dismissed_by,
        dismissal_reason=request.dismissal_reason,
    )


def _to_target(
    target: Target, model: str, job: Job | None, version: int | None, report_id: UUID | None, verdict: Verdict | None
) -> resources.Target:
    return resources.Target(
        model=model,
        state=target.state,
        reason=target.reason,
        detail=target.detail,
        samples=resources.SampleCounts.model_validate(target),
        job=None if job is None else resources.JoinedJob.model_validate(job),
        version=version,
        report_id=report_id,
        verdict=verdict,
        finished_at=target.finished_at,
    )
