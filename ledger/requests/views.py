"""What a caller may see of a request: plain data, read with one statement, because requests are polled."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from typing import Any
from uuid import UUID

from sqlalchemy import Select, select
from sqlalchemy.orm import Session

from ledger.states import ClosingReason, JobState, Reason, RequestState, Verdict
from ledger.tables import Dataset, Job, Model, ModelVersion, Report, Target, UnlearnRequest


@dataclass(frozen=True, slots=True, kw_only=True)
class TargetView:
    """One model that a request touches: its outcome, how many samples, and the job it joined.

    `cut_off` is when the job starts at the latest if its model is free, `cut_off_reason` why; `version`, `report_id` and
    `verdict` are there once the job's result is published.
    """

    model: str
    state: RequestState
    reason: Reason | None
    detail: str | None
    accepted: int
    already_erased: int
    not_in_training_set: int
    job_id: UUID | None
    job_state: JobState | None
    cut_off: datetime | None
    cut_off_reason: ClosingReason | None
    version: int | None
    report_id: UUID | None
    verdict: Verdict | None
    finished_at: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestView:
    """What was asked, by when it is due, and what became of it, model by model. The counts are of samples, over all models."""

    id: UUID
    dataset: str
    state: RequestState
    method: Mapping[str, Any] | None
    reason: str | None
    regulation: str
    received_at: datetime
    due_at: datetime
    extension_reason: str | None
    external_id: str | None
    expedite: bool
    accepted: int
    already_erased: int
    not_in_training_set: int
    targets: tuple[TargetView, ...]
    created_at: datetime
    finished_at: datetime | None


def request_views(session: Session, requests: Sequence[UnlearnRequest]) -> list[RequestView]:
    """The views of some requests, in their order, the targets by the names of their models."""
    chosen = with_targets().where(UnlearnRequest.id.in_([request.id for request in requests]))
    views = {view.id: view for view in read_views(session, chosen)}
    return [views[request.id] for request in requests]


@cache
def with_targets() -> Select[*tuple[Any, ...]]:
    """Requests, a row for each of their targets, with what else their views show: what `read_views` takes."""
    return (
        select(UnlearnRequest, Dataset.name, Target, Model.name, Job, ModelVersion.number, Report.id, Report.verdict)
        .join(Dataset, Dataset.id == UnlearnRequest.dataset_id)
        .outerjoin(Target, Target.request_id == UnlearnRequest.id)
        .outerjoin(Model, Model.id == Target.model_id)
        .outerjoin(Job, Job.id == Target.job_id)
        .outerjoin(ModelVersion, ModelVersion.job_id == Target.job_id)
        .outerjoin(Report, Report.job_id == Target.job_id)
        .order_by(Model.name)
    )


def read_views(session: Session, chosen: Select[*tuple[Any, ...]], **given: object) -> list[RequestView]:
    """The views of the requests chosen from `with_targets`, in any order; `given` are the statement's parameters."""
    requests: dict[UUID, tuple[UnlearnRequest, str]] = {}
    targets: dict[UUID, list[TargetView]] = {}
    for request, dataset, target, *facts in session.execute(chosen, given):
        requests[request.id] = request, dataset
        of_request = targets.setdefault(request.id, [])
        if target is not None:
            of_request.append(_target_view(target, *facts))
    return [_view(request, dataset, targets[request.id]) for request, dataset in requests.values()]


def _view(request: UnlearnRequest, dataset: str, targets: Sequence[TargetView]) -> RequestView:
    return RequestView(
        id=request.id,
        dataset=dataset,
        state=request.state,
        method=request.method,
        reason=request.reason,
        regulation=request.regulation,
        received_at=request.received_at,
        due_at=request.due_at,
        extension_reason=request.extension_reason,
        external_id=request.external_id,
        expedite=request.expedite,
        accepted=request.accepted,
        already_erased=request.already_erased,
        not_in_training_set=request.not_in_training_set,
        targets=tuple(targets),
        created_at=request.created_at,
        finished_at=request.finished_at,
    )


def _target_view(
    target: Target, model: str, job: Job | None, version: int | None, report_id: UUID | None, verdict: Verdict | None
) -> TargetView:
    return TargetView(
        model=model,
        state=target.state,
        reason=target.reason,
        detail=target.detail,
        accepted=target.accepted,
        already_erased=target.already_erased,
        not_in_training_set=target.not_in_training_set,
        job_id=target.job_id,
        job_state=job.state if job else None,
        cut_off=job.closes_at if job else None,
        cut_off_reason=job.closing_reason if job else None,
        version=version,
        report_id=report_id,
        verdict=verdict,
        finished_at=target.finished_at,
    )
