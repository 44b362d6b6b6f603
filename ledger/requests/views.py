"""Reading requests: with one statement, because they are polled."""

from collections.abc import Sequence
from functools import cache
from typing import Any
from uuid import UUID

from sqlalchemy import Select, select
from sqlalchemy.orm import Session

from ledger import resources
from ledger.states import Verdict
from ledger.tables import Dataset, Job, Model, ModelVersion, Report, Target, UnlearnRequest


def request_views(session: Session, requests: Sequence[UnlearnRequest]) -> list[resources.UnlearnRequest]:
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


def read_views(session: Session, chosen: Select[*tuple[Any, ...]], **given: object) -> list[resources.UnlearnRequest]:
    """The views of the requests chosen from `with_targets`, in any order; `given` are the statement's parameters."""
    requests: dict[UUID, tuple[UnlearnRequest, str]] = {}
    targets: dict[UUID, list[resources.Target]] = {}
    for request, dataset, target, *facts in session.execute(chosen, given):
        requests[request.id] = request, dataset
        of_request = targets.setdefault(request.id, [])
        if target is not None:
            of_request.append(_to_target(target, *facts))
    return [_to_request(request, dataset, targets[request.id]) for request, dataset in requests.values()]


def _to_request(request: UnlearnRequest, dataset: str, targets: Sequence[resources.Target]) -> resources.UnlearnRequest:
    return resources.UnlearnRequest(
        id=request.id,
        dataset=dataset,
        state=request.state,
        targets=tuple(targets),
        samples=resources.SampleCounts.model_validate(request),
        method=request.method,
        reason=request.reason,
        regulation=request.regulation,
        received_at=request.received_at,
        due_at=request.due_at,
        extension_reason=request.extension_reason,
        external_id=request.external_id,
        expedite=request.expedite,
        created_at=request.created_at,
        finished_at=request.finished_at,
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
        job=None if job is None else _to_joined_job(job),
        version=version,
        report_id=report_id,
        verdict=verdict,
        finished_at=target.finished_at,
    )


def _to_joined_job(job: Job) -> resources.JoinedJob:
    return resources.JoinedJob(id=job.id, state=job.state, cut_off=job.closes_at, cut_off_reason=job.closing_reason)
