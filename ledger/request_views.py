"""What a caller may see of a request: plain data, read with one statement for the requests and one for their targets."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import select
from sqlalchemy.orm import Session

from ledger.states import CutOffReason, JobState, Reason, RequestState, Verdict
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
    cut_off_reason: CutOffReason | None
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
    datasets = dict(
        session.execute(select(Dataset.id, Dataset.name).where(Dataset.id.in_({r.dataset_id for r in requests}))).all()
    )
    targets = _target_views(session, [request.id for request in requests])
    return [
        RequestView(
            id=request.id,
            dataset=datasets[request.dataset_id],
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
            targets=tuple(targets.get(request.id, ())),
            created_at=request.created_at,
            finished_at=request.finished_at,
        )
        for request in requests
    ]


def _target_views(session: Session, request_ids: Sequence[UUID]) -> dict[UUID, list[TargetView]]:
    chosen = (
        select(Target, Model.name, Job, ModelVersion.number, Report.id, Report.verdict)
        .join(Model, Model.id == Target.model_id)
        .outerjoin(Job, Job.id == Target.job_id)
        .outerjoin(ModelVersion, ModelVersion.job_id == Target.job_id)
        .outerjoin(Report, Report.job_id == Target.job_id)
        .where(Target.request_id.in_(request_ids))
        .order_by(Model.name)
    )
    views: dict[UUID, list[TargetView]] = {}
    for target, model, job, version, report_id, verdict in session.execute(chosen):
        view = TargetView(
            model=model,
            state=target.state,
            reason=target.reason,
            detail=target.detail,
            accepted=target.accepted,
            already_erased=target.already_erased,
            not_in_training_set=target.not_in_training_set,
            job_id=target.job_id,
            job_state=job.state if job else None,
            cut_off=job.cut_off if job else None,
            cut_off_reason=job.cut_off_reason if job else None,
            version=version,
            report_id=report_id,
            verdict=verdict,
            finished_at=target.finished_at,
        )
        views.setdefault(target.request_id, []).append(view)
    return views
