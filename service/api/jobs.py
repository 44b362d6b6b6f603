"""Jobs and their timelines as the API tells them."""

import logging
import time
from collections.abc import AsyncIterator
from datetime import datetime
from typing import Annotated, Any
from uuid import UUID

import anyio
from fastapi import APIRouter, BackgroundTasks, Header, Request, Response
from fastapi.concurrency import run_in_threadpool
from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy.exc import OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sse_starlette import EventSourceResponse, ServerSentEvent

from ledger.events.timeline import EventView, list_job_events
from ledger.jobs.approvals import approve, refuse
from ledger.jobs.jobs import cancel_job, get_job, list_attempts, list_jobs, retry_job
from ledger.states import TERMINAL, AttemptOutcome, ClosingReason, JobState, Phase, Reason, Verdict
from service.http.authentication import Admin, Reader, Writer
from service.http.caching import NOT_CHANGED, conditional, preferred
from service.http.fields import After, Cursor, Limit, Name
from service.http.openapi import problems
from service.http.problems import NotReady
from service.http.sessions import Database, Ledger
from service.http.streaming import Streams
from service.wakeups import wake


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
    cut_off_reason: ClosingReason
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


logger = logging.getLogger(__name__)

POLL_INTERVAL = 1.0
"""Seconds between two looks."""

MAX_STREAM_SECONDS = 900.0
"""Seconds after which a stream ends, and a revoked key reads no more; the client connects again with `Last-Event-ID`."""

MAX_STREAMS = 100
"""Streams that a process has open at once: each asks the ledger once a second."""


EVENTS_A_POLL = 200
"""Events that one look reads."""


def stream(streams: Streams, database: Database, *, tenant_id: UUID, job_id: UUID, after: int) -> EventSourceResponse:
    """The timeline from beyond the event `after`, until the job has ended. Raises NotReady where too many are open."""
    if streams.open >= MAX_STREAMS:
        raise NotReady(
            f"{MAX_STREAMS} streams are open already; poll GET /jobs/{{id}} instead.", checks={"streams": "full"}
        )
    events = _events(streams, database, tenant_id=tenant_id, job_id=job_id, after=after)
    return EventSourceResponse(events, ping=15, headers={"Cache-Control": "no-store"})


async def _events(
    streams: Streams, database: Database, *, tenant_id: UUID, job_id: UUID, after: int
) -> AsyncIterator[ServerSentEvent]:
    streams.open += 1
    ends = time.monotonic() + MAX_STREAM_SECONDS
    try:
        while time.monotonic() < ends:
            async with database.limiter:
                found, ended = await run_in_threadpool(_look, database, tenant_id=tenant_id, job_id=job_id, after=after)
            for event in found:
                after = event.id
                body = EventBody.model_validate(event)
                yield ServerSentEvent(body.model_dump_json(), event=event.kind, id=str(event.id))
            if ended:
                return
            await anyio.sleep(POLL_INTERVAL)
    finally:
        streams.open -= 1


def _look(database: Database, *, tenant_id: UUID, job_id: UUID, after: int) -> tuple[list[EventView], bool]:
    """What is new, and whether nothing can follow. The state comes first: its last event is committed with it."""
    try:
        with database.reading() as session:
            ended = get_job(session, tenant_id=tenant_id, job_id=job_id).state in TERMINAL
            found = list_job_events(session, tenant_id=tenant_id, job_id=job_id, after=after, limit=EVENTS_A_POLL)
    except (OperationalError, PoolTimeout) as error:
        logger.warning("a stream of events waits for the database: %s", type(error).__name__)
        return [], False
    return found, ended and len(found) < EVENTS_A_POLL


router = APIRouter(tags=["jobs"])

JSON, LIVE = "application/json", "text/event-stream"

LastEventID = Annotated[
    int | None,
    Header(ge=0, lt=2**63, description="With a stream: only events with a greater id; stands above `after`."),
]

POLL_SECONDS = "2"
"""How often a client should ask while a job is open: progress is written no more often."""


@router.get(
    "/jobs/{job_id:uuid}",
    summary="One job",
    response_model=JobBody,
    responses=problems(401, 403, 404, 422, 503) | NOT_CHANGED,
)
def get_one_job(job_id: UUID, request: Request, caller: Reader, ledger: Ledger) -> Response:
    """State, phase, progress, time left and what was measured so far.

    Poll with `If-None-Match`, as often as `Retry-After` says while the job is open.
    """
    job = JobBody.model_validate(get_job(ledger, tenant_id=caller.tenant_id, job_id=job_id))
    headers = {} if job.state in TERMINAL else {"Retry-After": POLL_SECONDS}
    return conditional(request, job, headers=headers)


@router.get("/jobs", summary="List the jobs", responses=problems(401, 403, 422, 503))
def get_jobs(
    caller: Reader,
    ledger: Ledger,
    state: JobState | None = None,
    model: Name | None = None,
    cursor: Cursor = None,
    limit: Limit = 50,
) -> JobsBody:
    """A page of the tenant's jobs, newest first."""
    page = list_jobs(ledger, tenant_id=caller.tenant_id, state=state, model=model, cursor=cursor, limit=limit)
    return JobsBody.model_validate(page)


@router.get(
    "/jobs/{job_id:uuid}/events",
    summary="A job's timeline",
    response_model=EventsBody,
    responses=problems(401, 403, 404, 422, 503)
    | {200: {"description": "The timeline, or a live stream of it", "content": {LIVE: {"schema": {"type": "string"}}}}},
)
def get_job_events(
    job_id: UUID,
    request: Request,
    caller: Reader,
    ledger: Ledger,
    after: After = 0,
    limit: Limit = 200,
    last_event_id: LastEventID = None,
) -> EventsBody | Response:
    """What happened to the job, oldest first: joined requests, attempts, phases, the verdict.

    With `Accept: text/event-stream` a live stream of server-sent events, each with its `id`, its kind as `event` and the same JSON
    as `data`. It ends with the job, or after a quarter of an hour: connect again with `Last-Event-ID`.
    """
    if preferred(request.headers.get("accept", ""), (JSON, LIVE)) == LIVE:
        get_job(ledger, tenant_id=caller.tenant_id, job_id=job_id)
        state = request.app.state
        seen = after if last_event_id is None else last_event_id
        return stream(state.streams, state.database, tenant_id=caller.tenant_id, job_id=job_id, after=seen)
    events = list_job_events(ledger, tenant_id=caller.tenant_id, job_id=job_id, after=after, limit=limit)
    return EventsBody.model_validate({"items": events}, from_attributes=True)


@router.get("/jobs/{job_id:uuid}/attempts", summary="A job's attempts", responses=problems(401, 403, 404, 422, 503))
def get_attempts(job_id: UUID, caller: Reader, ledger: Ledger) -> AttemptsBody:
    """Each worker's go at the job with its method, its time by stage, and how it ended."""
    attempts = list_attempts(ledger, tenant_id=caller.tenant_id, job_id=job_id)
    return AttemptsBody.model_validate({"items": attempts}, from_attributes=True)


@router.post("/jobs/{job_id:uuid}:cancel", summary="Cancel a job", responses=problems(401, 403, 404, 409, 422, 503))
def post_cancel(job_id: UUID, caller: Writer, ledger: Ledger) -> JobBody:
    """Stops the job with all its requests: at once while it waits, at the next step while it runs. The served model stays."""
    return JobBody.model_validate(cancel_job(ledger, tenant_id=caller.tenant_id, job_id=job_id))


@router.post(
    "/jobs/{job_id:uuid}:retry", summary="Retry a failed job", responses=problems(401, 403, 404, 409, 422, 503)
)
def post_retry(job_id: UUID, request: Request, tasks: BackgroundTasks, caller: Writer, ledger: Ledger) -> JobBody:
    """Puts a failed job back into the queue, from the first method of its policy."""
    state = request.app.state
    job = JobBody.model_validate(retry_job(ledger, tenant_id=caller.tenant_id, job_id=job_id))
    tasks.add_task(wake, state.broker, state.database, [job.id])
    return job


@router.post("/jobs/{job_id:uuid}:approve", summary="Approve a job", responses=problems(401, 403, 404, 409, 422, 503))
def post_approve(job_id: UUID, request: Request, tasks: BackgroundTasks, caller: Admin, ledger: Ledger) -> JobBody:
    """Lets a job run, or has the version that it made served: whichever it waits for. Who and when is on its timeline."""
    state = request.app.state
    job = JobBody.model_validate(approve(ledger, tenant_id=caller.tenant_id, job_id=job_id, by=caller.name))
    tasks.add_task(wake, state.broker, state.database, [job.id])
    return job


@router.post("/jobs/{job_id:uuid}:reject", summary="Reject a job", responses=problems(401, 403, 404, 409, 422, 503))
def post_reject(job_id: UUID, caller: Admin, ledger: Ledger) -> JobBody:
    """Cancels a job that waits to run, or fails one whose version waits to be served; the served model stays what it is."""
    return JobBody.model_validate(refuse(ledger, tenant_id=caller.tenant_id, job_id=job_id, by=caller.name))
