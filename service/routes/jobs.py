"""Jobs: how far an unlearning run is, what happened to it, and stopping it."""

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Query, Request, Response

from ledger.events import list_job_events
from ledger.jobs import cancel_job, get_job, list_jobs
from ledger.states import TERMINAL, JobState
from service.access import Reader, Writer
from service.bodies.jobs import EventsBody, JobBody, JobsBody
from service.etags import conditional
from service.names import Cursor, Limit, Name
from service.openapi import problems
from service.session import Ledger

router = APIRouter(tags=["jobs"])

POLL_SECONDS = 2
"""How often a client should ask while a job is open; progress is written no more often."""


@router.get(
    "/jobs/{job_id:uuid}",
    summary="One job",
    response_model=JobBody,
    responses=problems(401, 403, 404, 503) | {304: {"description": "Not changed since the ETag that was given"}},
)
def get_one_job(job_id: UUID, request: Request, caller: Reader, ledger: Ledger) -> Response:
    """State, phase, progress, time left and what was measured so far. Poll with `If-None-Match`, as often as `Retry-After` says."""
    job = JobBody.model_validate(get_job(ledger, tenant_id=caller.tenant_id, job_id=job_id))
    headers = {} if job.state in TERMINAL else {"Retry-After": str(POLL_SECONDS)}
    return conditional(request, job, headers=headers)
