"""Jobs: how far an unlearning run is, what happened to it, and stopping it."""

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, BackgroundTasks, Header, Request, Response

from ledger.approvals import approve, refuse
from ledger.events import list_job_events
from ledger.jobs import cancel_job, get_job, list_attempts, list_jobs, retry_job
from ledger.states import TERMINAL, JobState
from service.access import Admin, Reader, Writer
from service.bodies.jobs import AttemptsBody, EventsBody, JobBody, JobsBody
from service.dispatch import wake
from service.etags import NOT_CHANGED, conditional
from service.live import stream
from service.names import After, Cursor, Limit, Name
from service.negotiation import preferred
from service.openapi import problems
from service.session import Ledger

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
