"""An unlearn request as the API tells it."""

from datetime import datetime
from typing import Annotated, Any
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field

from ledger.estimates import EstimateSource
from ledger.request_views import RequestView, TargetView
from ledger.states import CutOffReason, JobState, Reason, RequestState, Verdict
from service.names import Text


class SampleCounts(BaseModel):
    """How many of the samples there are of each outcome."""

    accepted: int = Field(description="To be erased.")
    already_erased: int = Field(description="Erased by an earlier job.")
    not_in_training_set: int = Field(description="No model in question was trained on them.")


class JoinedJob(BaseModel):
    """The job that a request joined for one model."""

    id: UUID | None = Field(description="See GET /jobs/{id}. Null in a preview that would open a new job.")
    state: JobState
    cut_off: datetime = Field(
        description="It starts then, if the model and a worker are free; until then others may join."
    )
    cut_off_reason: CutOffReason = Field(
        description="Why then: end of the window, a deadline, expedited, another method."
    )


class TargetBody(BaseModel):
    """One model that the request touches, with its own outcome."""

    model: str = Field(examples=["digits-cnn"])
    state: RequestState
    reason: Reason | None = Field(description="Why it ended as it did.")
    detail: str | None
    samples: SampleCounts | None = Field(
        description="Null for a key without requests:read: it must not learn who is in a training set."
    )
    job: JoinedJob | None
    version: int | None = Field(description="The model version that no longer knows the samples.")
    report_id: UUID | None = Field(description="See GET /reports/{id}.")
    verdict: Verdict | None
    finished_at: datetime | None


class UnlearnRequestBody(BaseModel):
    """What was asked, by when it is due, and what became of it, model by model."""

    id: UUID
    dataset: str = Field(examples=["digits"])
    state: RequestState = Field(description="The least advanced of its targets'; when all have ended, the worst.")
    targets: list[TargetBody]
    samples: SampleCounts | None = Field(description="Over all models. Null for a key without requests:read.")
    unmatched_sample_ids: list[str] | None = Field(
        default=None,
        description="In the answer to the POST alone: those of its sample IDs that no model was trained on. They are not stored. "
        "Null for a manifest, of which only the keyed hashes are there.",
    )
    method: dict[str, Any] | None = Field(description="Null for the models' own policies.")
    reason: str | None
    regulation: str
    received_at: datetime
    due_at: datetime = Field(description="By law, from when it was received.")
    extension_reason: str | None
    external_id: str | None
    expedite: bool
    created_at: datetime
    finished_at: datetime | None


class UnlearnRequestsBody(BaseModel):
    """A page of requests, newest first."""

    items: list[UnlearnRequestBody]
    next_cursor: str | None = Field(description="Pass as `cursor` for the next page; null on the last.")


class EstimateBody(BaseModel):
    """How long a job will run."""

    model_config = ConfigDict(from_attributes=True)

    seconds: float = Field(description="From its start to its published result.")
    low_seconds: float
    high_seconds: float
    source: EstimateSource = Field(
        description="The model's last jobs (median and range), or, before the first, how long its training took: a guess."
    )
    finish_at: datetime = Field(description="When it will have ended at the latest, if the range holds.")


class PreviewTargetBody(TargetBody):
    """One model that the request would touch."""

    estimate: EstimateBody | None = Field(description="Null where there is nothing to erase, or nothing is known.")
    meets_deadline: bool | None = Field(
        description="Whether `finish_at` is not after `due_at`; null without an estimate."
    )


class PreviewBody(BaseModel):
    """What a request would do now. Nothing was written."""

    dataset: str
    samples: SampleCounts
    unmatched_sample_ids: list[str] | None = Field(description="Null for a manifest.")
    targets: list[PreviewTargetBody]
    received_at: datetime
    due_at: datetime


class ExtensionBody(BaseModel):
    """Why a request's deadline is extended."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    reason: Annotated[Text, Field(min_length=1, pattern=r"\S")] = Field(
        description="For the record, and to be told to the person (GDPR Art. 12(3)). Nothing personal, please.",
        examples=["Five models are concerned, one of which takes three weeks to unlearn."],
    )


def told(request: RequestView, *, counted: bool) -> UnlearnRequestBody:
    """A request as its body; `counted` says whether the reader may know how many samples matched."""
    return UnlearnRequestBody(
        id=request.id,
        dataset=request.dataset,
        state=request.state,
        targets=[_target(target, counted=counted) for target in request.targets],
        samples=_counts(request) if counted else None,
        method=None if request.method is None else dict(request.method),
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


def _target(target: TargetView, *, counted: bool) -> TargetBody:
    return TargetBody(
        model=target.model,
        state=target.state,
        reason=target.reason,
        detail=target.detail,
        samples=_counts(target) if counted else None,
        job=_job(target),
        version=target.version,
        report_id=target.report_id,
        verdict=target.verdict,
        finished_at=target.finished_at,
    )


def _counts(of: RequestView | TargetView) -> SampleCounts:
    return SampleCounts(
        accepted=of.accepted, already_erased=of.already_erased, not_in_training_set=of.not_in_training_set
    )


def _job(target: TargetView) -> JoinedJob | None:
    if target.job_id is None or target.job_state is None or target.cut_off is None or target.cut_off_reason is None:
        return None
    return JoinedJob(
        id=target.job_id, state=target.job_state, cut_off=target.cut_off, cut_off_reason=target.cut_off_reason
    )
