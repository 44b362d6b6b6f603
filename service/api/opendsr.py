"""OpenDSR: the calls by which a customer data platform passes on erasure requests. They are there only if they are declared.

Every answer is signed. Errors are problems, as everywhere, with the protocol's `error` object beside; what is 422 elsewhere is 400
here.
"""

import base64
import json
from collections.abc import Callable, Coroutine
from typing import Annotated, Any, Literal
from uuid import UUID

from fastapi import APIRouter, Depends, FastAPI, Request, Response
from fastapi.responses import JSONResponse, PlainTextResponse
from pydantic import UUID4, AfterValidator, BaseModel, ConfigDict, Field

from connectors import opendsr
from connectors.opendsr import MANAGER, IdentityFormat, OpenDsr, rfc3339
from ledger.db import now
from ledger.errors import InvalidTime, Refused
from ledger.requests.managed import cancel_managed, get_managed
from service.api.managers import record_managed_request
from service.api.webhooks import WebhookUrl
from service.http import problems
from service.http.authentication import ApiRoute, Reader, Writer
from service.http.bodies import RawBody
from service.http.fields import Moment, Subject
from service.http.sessions import Ledger


class SubjectIdentity(BaseModel):
    """One way to name the person."""

    model_config = ConfigDict(frozen=True)

    identity_type: Annotated[str, Field(min_length=1, max_length=100)]
    identity_value: Subject
    identity_format: IdentityFormat


def _supported(version: str) -> str:
    if version.partition(".")[0] != opendsr.API_VERSION.partition(".")[0]:
        raise ValueError(f"must be {opendsr.API_VERSION}")
    return version


class SubjectRequest(BaseModel):
    """A request as the protocol has it (§7.1.1). Extensions, and fields of a later minor version, are ignored."""

    model_config = ConfigDict(frozen=True)

    regulation: Literal["gdpr", "ccpa"]
    subject_request_id: UUID4
    subject_request_type: Literal["erasure", "access", "portability"]
    submitted_time: Moment
    subject_identities: Annotated[list[SubjectIdentity], Field(max_length=100)] = Field(default_factory=list)
    api_version: Annotated[str, Field(max_length=20), AfterValidator(_supported)] = opendsr.API_VERSION
    status_callback_urls: Annotated[list[WebhookUrl], Field(max_length=10)] = Field(default_factory=list)


class SignedRoute(ApiRoute):
    """A route whose answers are signed; `install` has the refusals signed too."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Wrap the route's handler."""
        handle = super().get_route_handler()

        async def handle_signed(request: Request) -> Response:
            return _signed(request, await handle(request))

        return handle_signed


def install(app: FastAPI, protocol: OpenDsr) -> None:
    """Add the protocol's calls to an application that responds to errors already."""
    app.state.opendsr = protocol
    problems.include(app, router)
    for kind in problems.HANDLERS:
        app.add_exception_handler(kind, _handle)


def _handle(request: Request, error: Exception) -> Response:
    """Respond to an error: with a signed one of the protocol, at its paths. By now the call's transaction is rolled back."""
    problem = problems.handle(request, error)
    return _signed(request, _with_error(problem)) if request.url.path.startswith(opendsr.PREFIX) else problem


def _signed(request: Request, response: Response) -> Response:
    response.headers.update(_protocol(request).headers(bytes(response.body)))
    return response


def _with_error(problem: Response) -> Response:
    """Add the protocol's error object (§7.6) to a problem, and give it the status that the protocol has for bad input."""
    content = json.loads(bytes(problem.body))
    status = 400 if problem.status_code == 422 else problem.status_code
    faults = [f"{one.get('pointer') or one.get('name')}: {one['detail']}" for one in content.get("errors", ())]
    reason = content["type"].rpartition("/")[2]
    errors = [{"domain": "expunge", "reason": reason, "message": each} for each in faults or [content["detail"]]]
    content |= {
        "status": status,
        "error": {"code": status, "message": "; ".join(faults) or content["detail"], "errors": errors},
    }
    headers = {name: value for name, value in problem.headers.items() if name != "content-length"}
    return Response(json.dumps(content), status, headers)


router = APIRouter(route_class=SignedRoute, prefix=opendsr.PREFIX, include_in_schema=False)


def _protocol(request: Request) -> OpenDsr:
    protocol: OpenDsr = request.app.state.opendsr
    return protocol


Protocol = Annotated[OpenDsr, Depends(_protocol)]


@router.get("/discovery")
def get_discovery(protocol: Protocol) -> JSONResponse:
    """What is supported, for everybody."""
    return JSONResponse(protocol.discovery())


@router.get("/certificate.pem")
def get_certificate(protocol: Protocol) -> PlainTextResponse:
    """The certificate that signs, with those that lead to its authority, for everybody."""
    return PlainTextResponse(protocol.certificates, media_type="application/x-pem-file")


@router.post("/requests")
def post_request(
    asked: SubjectRequest, body: RawBody, request: Request, protocol: Protocol, caller: Writer, ledger: Ledger
) -> JSONResponse:
    """Records the request. The answer is the same whether or not anybody knows the person, and to a replay."""
    if asked.subject_request_type != "erasure":
        raise Refused(f"{asked.subject_request_type} is not supported, only erasure: a model gives no data back")
    people = protocol.subjects(
        (one.identity_type, one.identity_format, one.identity_value) for one in asked.subject_identities
    )
    if not people:
        raise Refused("none of subject_identities is of a type and a format that GET /discovery lists")
    try:
        found = record_managed_request(
            ledger,
            caller,
            settings=request.app.state.settings,
            manager=MANAGER,
            reference=str(asked.subject_request_id),
            people=people,
            regulation=asked.regulation,
            received_at=asked.submitted_time,
            quiet=protocol.declaration.quiet,
            callback_urls=asked.status_callback_urls,
        )
    except InvalidTime as error:
        raise Refused(str(error).replace("received_at", "submitted_time")) from None
    return JSONResponse(
        {
            "controller_id": str(found.tenant_id),
            "expected_completion_time": rfc3339(found.due_at),
            "received_time": rfc3339(found.received_at),
            "encoded_request": base64.b64encode(body).decode(),
            "subject_request_id": found.reference,
        },
        status_code=201,
    )


@router.get("/requests/{subject_request_id:uuid}")
def get_status(subject_request_id: UUID, protocol: Protocol, caller: Reader, ledger: Ledger) -> JSONResponse:
    """The status of a request."""
    found = get_managed(ledger, tenant_id=caller.tenant_id, manager=MANAGER, reference=str(subject_request_id))
    return JSONResponse(protocol.status(found))


@router.delete("/requests/{subject_request_id:uuid}")
def delete_request(subject_request_id: UUID, caller: Writer, ledger: Ledger) -> JSONResponse:
    """Withdraws a request that is pending. 409 if it is too late for that."""
    found = cancel_managed(ledger, tenant_id=caller.tenant_id, manager=MANAGER, reference=str(subject_request_id))
    return JSONResponse(
        {
            "controller_id": str(found.tenant_id),
            "subject_request_id": found.reference,
            "received_time": rfc3339(now(ledger)),
            "expected_completion_time": None,
            "api_version": opendsr.API_VERSION,
        },
        status_code=202,
    )
