"""Jobs and their timelines as the API tells them."""

from datetime import datetime
from typing import Any
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field

from ledger.states import AttemptOutcome, CutOffReason, JobState, Phase, Reason, Verdict


class JobBody(BaseModel):
    """One unlearning run of one model, for one or many requests."""

    model_config = ConfigDict(from_attributes=True)

    id: UUID
    model: str = Field(examples=["digits-cnn"])
    dataset: str = Field(examples=["digits"])
    state: JobState
    reason: Reason | None = Field(description="Why it failed or was cancelled.")
    detail: str | None
    phase: Phase = Field(description="What the worker does now.")
    progress: float = Field(ge=0, le=1, description="Of the whole job, 0 to 1.")
    step: int = Field(description="Of this phase.")
    total: int = Field(description="Steps of this phase.")
    eta_seconds: float | None = Field(description="Seconds to the end of the job, estimated; null while not known.")
    metrics: dict[str, Any] = Field(description="What was measured so far in this attempt.")
    timings: dict[str, Any] = Field(description="Seconds by stage.")
    attempt: int = Field(description="From 1; grows with each worker or method that takes over.")
    method: dict[str, Any] = Field(description="The method of this attempt with its parameters.")
    policy: list[dict[str, Any]] = Field(description="The methods to try, in order, until the audit verifies.")
    cut_off: datetime = Field(
        description="Until then further requests may join; then it starts, if model and worker are free."
    )
    cut_off_reason: CutOffReason
    samples: int | None = Field(description="To be erased by it; null before the cut-off.")
    requests: int = Field(description="How many requests it serves.")
    due_at: datetime | None = Field(description="The earliest deadline among them.")
    approved_by: str | None = Field(description="Who let it run, where the model's jobs need approval.")
    approved_at: datetime | None
    cancel_requested: bool
    base_version: int | None = Field(description="The model version it starts from.")
    version: int | None = Field(description="The model version it published.")
    report_id: UUID | None = Field(description="See GET /reports/{id}.")
    verdict: Verdict | None
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    updated_at: datetime


class JobsBody(BaseModel):
    """A page of jobs, newest first."""

    model_config = ConfigDict(from_attributes=True)

    items: list[JobBody]
    next_cursor: str | None = Field(description="Pass as `cursor` for the next page; null on the last.")


class EventBody(BaseModel):
    """Something that happened."""

    model_config = ConfigDict(from_attributes=True)

    id: int = Field(description="Grows; pass the last one as `after` to read on.")
    at: datetime
    kind: str = Field(examples=["job.running"])
    text: str
    data: dict[str, Any]


class EventsBody(BaseModel):
    """A timeline, oldest first."""

    items: list[EventBody]


class AttemptBody(BaseModel):
    """One worker's go at a job."""

    model_config = ConfigDict(from_attributes=True)

    number: int
    method: dict[str, Any]
    outcome: AttemptOutcome | None = Field(description="Null while it runs.")
    reason: Reason | None
    detail: str | None
    finding: dict[str, Any] | None = Field(description="What the audit found when it was not good enough to publish.")
    timings: dict[str, Any] = Field(description="Seconds by stage.")
    started_at: datetime
    finished_at: datetime | None


class AttemptsBody(BaseModel):
    """The attempts at a job, in their order."""

    items: list[AttemptBody]
