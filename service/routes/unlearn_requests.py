"""Unlearn requests: asking for erasure, trying what it would do, following it, and taking it back."""

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, BackgroundTasks, Header, Query, Request, Response

from ledger.access import Scope
from ledger.events import list_request_events
from ledger.requests import cancel_request, extend_deadline, get_request, list_requests
from ledger.states import TERMINAL, RequestState
from service import submission
from service.access import Reader, Writer, require
from service.bodies.jobs import EventsBody
from service.bodies.new_unlearn_request import NewUnlearnRequest
from service.bodies.unlearn_requests import ExtensionBody, PreviewBody, UnlearnRequestBody, UnlearnRequestsBody, told
from service.dispatch import wake
from service.etags import NOT_CHANGED, conditional
from service.names import After, Cursor, Limit, Moment, Name
from service.openapi import problems
from service.session import Ledger

router = APIRouter(tags=["unlearn requests"])

POLL_SECONDS = "5"
"""How often a client should ask about an open request."""

IdempotencyKey = Annotated[
    str | None,
    Header(
        min_length=1,
        max_length=255,
        pattern=r"^[\x21-\x7e]+$",
        description="Any unique string of yours. The same key with the same body gives the first answer again, for 30 days.",
        examples=["8e03978e-40d5-43dd-bc93-6894a57f9324"],
    ),
]


@router.post(
    "/unlearn-requests",
    status_code=202,
    summary="Ask for samples to be erased",
    response_model=UnlearnRequestBody,
    response_description="Recorded: nothing of it can get lost any more",
    responses={
        200: {"model": PreviewBody, "description": "With validate_only: what it would do"},
        202: {
            "headers": {
                "Location": {"description": "Where the request is", "schema": {"type": "string"}},
                "Retry-After": {"description": "Seconds after which to look", "schema": {"type": "integer"}},
            }
        },
        **problems(400, 401, 403, 404, 409, 413, 415, 422, 503),
    },
)
def post_unlearn_request(
    asked: NewUnlearnRequest,
    request: Request,
    response: Response,
    tasks: BackgroundTasks,
    caller: Writer,
    ledger: Ledger,
    idempotency_key: IdempotencyKey = None,
) -> UnlearnRequestBody | Response:
    """Records the request and lets it join a job for each model that was trained on the samples.

    The answer says which jobs, when each starts at the latest, and why. Samples that no model was trained on do not fail the rest;
    a request in which none matches is refused.
    """
    state = request.app.state
    if asked.validate_only:
        require(caller, Scope.REQUESTS_READ)  # a preview tells who is in a training set
        preview = submission.preview_request(ledger, asked, caller, settings=state.settings)
        return Response(preview.model_dump_json(), media_type="application/json")
    body = submission.record_request(ledger, asked, caller, settings=state.settings, idempotency_key=idempotency_key)
    tasks.add_task(wake, state.broker, state.database, submission.due_jobs(body))
    response.headers["Location"] = f"/unlearn-requests/{body.id}"
    response.headers["Retry-After"] = POLL_SECONDS
    return body


@router.post(
    "/unlearn-requests:preview",
    summary="See what a request would do",
    responses=problems(400, 401, 403, 404, 409, 413, 415, 422, 503),
)
def preview_unlearn_request(asked: NewUnlearnRequest, request: Request, caller: Reader, ledger: Ledger) -> PreviewBody:
    """The models it would touch, how many samples match, the jobs it would join with their cut-offs, how long they
    would take, and whether that meets the deadline. Nothing is written."""
    return submission.preview_request(ledger, asked, caller, settings=request.app.state.settings)


@router.get("/unlearn-requests", summary="List the requests", responses=problems(401, 403, 422, 503))
def get_unlearn_requests(
    caller: Reader,
    ledger: Ledger,
    state: RequestState | None = None,
    model: Name | None = None,
    due_before: Annotated[Moment | None, Query(description="Only those due before this time.")] = None,
    is_open: Annotated[
        bool | None, Query(alias="open", description="Only those that have not ended, or that have.")
    ] = None,
    overdue: Annotated[bool, Query(description="Only those that are open after their date.")] = False,
    cursor: Cursor = None,
    limit: Limit = 50,
) -> UnlearnRequestsBody:
    """A page of the tenant's requests, newest first. What is soon due: `open=true` with `due_before`."""
    page = list_requests(
        ledger,
        tenant_id=caller.tenant_id,
        state=state,
        model=model,
        due_before=due_before,
        is_open=is_open,
        overdue=overdue,
        cursor=cursor,
        limit=limit,
    )
    items = [told(view, counted=True) for view in page.items]
    return UnlearnRequestsBody(items=items, next_cursor=page.next_cursor)


@router.get(
    "/unlearn-requests/{request_id:uuid}",
    summary="One request",
    response_model=UnlearnRequestBody,
    responses=problems(401, 403, 404, 422, 503) | NOT_CHANGED,
)
def get_unlearn_request(request_id: UUID, request: Request, caller: Reader, ledger: Ledger) -> Response:
    """The request with each model's outcome. Poll with `If-None-Match`, as often as `Retry-After` says while it is open."""
    body = told(get_request(ledger, tenant_id=caller.tenant_id, request_id=request_id), counted=True)
    headers = {} if body.state in TERMINAL else {"Retry-After": POLL_SECONDS}
    return conditional(request, body, headers=headers)


@router.get(
    "/unlearn-requests/{request_id:uuid}/events",
    summary="A request's timeline",
    responses=problems(401, 403, 404, 422, 503),
)
def get_request_events(
    request_id: UUID, caller: Reader, ledger: Ledger, after: After = 0, limit: Limit = 200
) -> EventsBody:
    """What happened to the request and its targets, oldest first."""
    events = list_request_events(ledger, tenant_id=caller.tenant_id, request_id=request_id, after=after, limit=limit)
    return EventsBody.model_validate({"items": events}, from_attributes=True)


@router.post(
    "/unlearn-requests/{request_id:uuid}:cancel",
    summary="Withdraw a request",
    responses=problems(401, 403, 404, 409, 422, 503),
)
def post_cancel(request_id: UUID, caller: Writer, ledger: Ledger) -> UnlearnRequestBody:
    """Withdraws the request for every model that has not been dealt with; 409 where it is too late for that, with the reason."""
    view = cancel_request(ledger, tenant_id=caller.tenant_id, request_id=request_id)
    return told(view, counted=caller.may(Scope.REQUESTS_READ))


@router.post(
    "/unlearn-requests/{request_id:uuid}:extend",
    summary="Extend a request's deadline",
    responses=problems(400, 401, 403, 404, 409, 413, 415, 422, 503),
)
def post_extend(request_id: UUID, asked: ExtensionBody, caller: Writer, ledger: Ledger) -> UnlearnRequestBody:
    """Extends the deadline of an open request, once, by what its regulation allows (GDPR: two months), for a reason.

    409 where it is finished, overdue or extended already.
    """
    view = extend_deadline(ledger, tenant_id=caller.tenant_id, request_id=request_id, reason=asked.reason)
    return told(view, counted=caller.may(Scope.REQUESTS_READ))
