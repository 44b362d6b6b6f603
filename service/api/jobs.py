"""Jobs, their attempts, and their timelines, live too."""

import logging
import time
from collections.abc import AsyncIterator
from typing import Annotated
from uuid import UUID

import anyio
from fastapi import APIRouter, BackgroundTasks, Header, Request, Response
from fastapi.concurrency import run_in_threadpool
from sse_starlette import EventSourceResponse, ServerSentEvent

from ledger.db import DATABASE_AWAY
from ledger.events.timeline import list_job_events
from ledger.jobs.approvals import approve, refuse
from ledger.jobs.cancellation import cancel_job, retry_job
from ledger.jobs.jobs import get_job, list_attempts, list_jobs
from ledger.resources import Attempt, Event, Job, Listing, Page
from ledger.states import TERMINAL, JobState
from service.http.authentication import Admin, ApiRoute, Reader, Writer, shown_to
from service.http.caching import NOT_CHANGED, conditional, preferred
from service.http.fields import After, JobCursor, Limit, Name
from service.http.openapi import problems
from service.http.sessions import Database, Ledger
from service.http.streaming import SEND_SECONDS, Streams
from service.wakeups import wake

logger = logging.getLogger(__name__)

POLL_INTERVAL = 1.0
"""Seconds between two polls of the database."""

MAX_STREAM_SECONDS = 900.0
"""Seconds after which a stream ends, so that a revoked key reads no more; the client connects again with `Last-Event-ID`."""

MAX_STREAMS = 200
"""Streams that a process has open at once, half of them for one tenant: each polls the database once a second."""

EVENTS_A_POLL = 200
"""Events that one poll reads."""

router = APIRouter(route_class=ApiRoute, tags=["jobs"])

JSON, LIVE = "application/json", "text/event-stream"

LastEventID = Annotated[
    int | None,
    Header(ge=0, lt=2**63, description="With a stream: only events with a greater id; takes precedence over `after`."),
]

POLL_SECONDS = "2"
"""How often a client should poll while a job is open: progress is written no more often."""


@router.get(
    "/jobs/{job_id:uuid}",
    summary="One job",
    response_model=Job,
    responses=problems(401, 403, 404, 422, 503) | NOT_CHANGED,
)
def get_one_job(job_id: UUID, request: Request, caller: Reader, ledger: Ledger) -> Response:
    """State, phase, progress, time left and what was measured so far.

    Poll with `If-None-Match`, as often as `Retry-After` says while the job is open.
    """
    job = get_job(ledger, tenant_id=caller.tenant_id, job_id=job_id)
    headers = {} if job.state in TERMINAL else {"Retry-After": POLL_SECONDS}
    return conditional(request, job, headers=headers)


@router.get("/jobs", summary="List the jobs", responses=problems(401, 403, 404, 422, 503))
def get_jobs(
    caller: Reader,
    ledger: Ledger,
    state: JobState | None = None,
    model: Name | None = None,
    cursor: JobCursor = None,
    limit: Limit = 50,
) -> Page[Job]:
    """A page of the tenant's jobs, newest first. 404 for a model that is not registered."""
    return list_jobs(ledger, tenant_id=caller.tenant_id, state=state, model=model, cursor=cursor, limit=limit)


@router.get(
    "/jobs/{job_id:uuid}/events",
    summary="A job's timeline",
    response_model=Listing[Event],
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
) -> Listing[Event] | Response:
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
    return Listing[Event](items=events)


@router.get("/jobs/{job_id:uuid}/attempts", summary="A job's attempts", responses=problems(401, 403, 404, 422, 503))
def get_attempts(job_id: UUID, caller: Reader, ledger: Ledger) -> Listing[Attempt]:
    """The attempts at the job, each with its method, its time by stage, and how it ended."""
    return Listing[Attempt](items=list_attempts(ledger, tenant_id=caller.tenant_id, job_id=job_id))


@router.post("/jobs/{job_id:uuid}:cancel", summary="Cancel a job", responses=problems(401, 403, 404, 409, 422, 503))
def post_cancel(job_id: UUID, caller: Writer, ledger: Ledger) -> Job:
    """Stops the job with all its requests: at once while it waits, at the next step while it runs. The served model stays."""
    return shown_to(caller, cancel_job(ledger, tenant_id=caller.tenant_id, job_id=job_id))


@router.post(
    "/jobs/{job_id:uuid}:retry", summary="Retry a failed job", responses=problems(401, 403, 404, 409, 422, 503)
)
def post_retry(job_id: UUID, request: Request, tasks: BackgroundTasks, caller: Writer, ledger: Ledger) -> Job:
    """Puts a failed job back into the queue, from the first method of its model's policy as it is now."""
    state = request.app.state
    job = retry_job(ledger, tenant_id=caller.tenant_id, job_id=job_id)
    tasks.add_task(wake, state.broker, state.database, [job.id])
    return shown_to(caller, job)


@router.post("/jobs/{job_id:uuid}:approve", summary="Approve a job", responses=problems(401, 403, 404, 409, 422, 503))
def post_approve(job_id: UUID, request: Request, tasks: BackgroundTasks, caller: Admin, ledger: Ledger) -> Job:
    """Lets a job run, or has the version that it made served: whichever it waits for. Who and when is on its timeline."""
    state = request.app.state
    job = approve(ledger, tenant_id=caller.tenant_id, job_id=job_id, by=caller.name)
    tasks.add_task(wake, state.broker, state.database, [job.id])
    return job


@router.post("/jobs/{job_id:uuid}:reject", summary="Reject a job", responses=problems(401, 403, 404, 409, 422, 503))
def post_reject(job_id: UUID, caller: Admin, ledger: Ledger) -> Job:
    """Cancels a job that waits to run, or fails one whose version waits to be served; the served model stays what it is."""
    return refuse(ledger, tenant_id=caller.tenant_id, job_id=job_id, by=caller.name)


def stream(streams: Streams, database: Database, *, tenant_id: UUID, job_id: UUID, after: int) -> EventSourceResponse:
    """Stream the timeline from beyond the event `after`, until the job has ended.

    Raises NotReady and TooManyCalls if too many are open.
    """
    streams.check(tenant_id)
    events = _events(streams, database, tenant_id=tenant_id, job_id=job_id, after=after)
    return EventSourceResponse(events, ping=15, send_timeout=SEND_SECONDS, headers={"Cache-Control": "no-store"})


async def _events(
    streams: Streams, database: Database, *, tenant_id: UUID, job_id: UUID, after: int
) -> AsyncIterator[ServerSentEvent]:
    ends = time.monotonic() + MAX_STREAM_SECONDS
    with streams.opened(tenant_id):
        while time.monotonic() < ends:
            async with database.limiter:
                found, ended = await run_in_threadpool(_poll, database, tenant_id=tenant_id, job_id=job_id, after=after)
            for event in found:
                after = event.id
                yield ServerSentEvent(event.model_dump_json(), event=event.kind, id=str(event.id))
            if ended:
                return
            await anyio.sleep(POLL_INTERVAL)


def _poll(database: Database, *, tenant_id: UUID, job_id: UUID, after: int) -> tuple[list[Event], bool]:
    """Read the new events, and whether no more can follow.

    The state is read first: the last event is committed with it.
    """
    try:
        with database.reading() as session:
            ended = get_job(session, tenant_id=tenant_id, job_id=job_id).state in TERMINAL
            found = list_job_events(session, tenant_id=tenant_id, job_id=job_id, after=after, limit=EVENTS_A_POLL)
    except DATABASE_AWAY as error:
        logger.warning("a stream of events waits for the database: %s", type(error).__name__)
        return [], False
    return found, ended and len(found) < EVENTS_A_POLL
