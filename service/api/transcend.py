"""Transcend: the webhook by which it sends an erasure, and the call by which a puller passes on a pending one."""

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, FastAPI, Request
from fastapi.responses import JSONResponse
from pydantic import AliasPath, BaseModel, ConfigDict, Field, TypeAdapter, ValidationError
from sqlalchemy.orm import Session

from connectors.transcend import MANAGER, TokenRefused, Transcend, hash_job, make_reference, make_result, seal
from ledger.db import now
from ledger.errors import InvalidTime, Refused
from ledger.registry.access import Caller
from ledger.requests.managed import Managed, find_reference
from ledger.sample_key import check_sample_key
from service.api.managers import record_managed_request
from service.http.authentication import ApiRoute, Writer
from service.http.bodies import RawBody, parse
from service.http.fields import Moment
from service.http.problems import SignatureRefused, include
from service.http.sessions import Ledger
from service.settings import Settings

Identifier = Annotated[str, Field(min_length=1, max_length=1000)]
IdentityType = Annotated[str, Field(max_length=100)]


class Job(BaseModel):
    """A job as the webhook brings it, as far as it is read. kind: what is asked for; person: the main identity of whoever asked."""

    model_config = ConfigDict(frozen=True)

    kind: Annotated[str, Field(validation_alias="type")]
    person: Annotated[str | None, Field(validation_alias=AliasPath("coreIdentifier", "value"))] = None
    request_id: Annotated[UUID, Field(validation_alias=AliasPath("extras", "request", "id"))]
    type: Annotated[IdentityType, Field(validation_alias=AliasPath("extras", "profile", "type"))]
    identifier: Annotated[Identifier, Field(validation_alias=AliasPath("extras", "profile", "identifier"))]
    created_at: Annotated[Moment | None, Field(validation_alias=AliasPath("extras", "request", "createdAt"))] = None


class PulledRequest(BaseModel):
    """A pending job that a puller has found at Transcend."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    request_id: UUID
    type: IdentityType
    identifier: Identifier
    created_at: Moment | None = None


_JOB = TypeAdapter(Job)

router = APIRouter(route_class=ApiRoute, prefix="/transcend", include_in_schema=False)


def install(app: FastAPI, transcend: Transcend) -> None:
    """Add the calls to an application."""
    app.state.transcend = transcend
    include(app, router)


@router.post("/webhook")
def post_webhook(body: RawBody, request: Request, caller: Writer, ledger: Ledger) -> JSONResponse:
    """Records an erasure. The answer is the same whether or not anybody knows the person, and to a replay."""
    transcend: Transcend = request.app.state.transcend
    try:
        claims = transcend.check_token(request.headers.get("x-sombra-token", ""), at=now(ledger))
    except TokenRefused as error:
        raise SignatureRefused(str(error)) from None
    job = _read_job(body)
    if "value" in claims and (job.person is None or claims["value"] != job.person):
        raise SignatureRefused("the token is for another person than the body")
    if job.kind != "ERASURE":
        raise Refused("nothing but ERASURE is supported: a model gives no data back")
    nonce = request.headers.get("x-transcend-nonce", "")
    if not 1 <= len(nonce) <= 8000 or not nonce.isascii() or not nonce.isprintable() or " " in nonce:
        raise Refused("the header x-transcend-nonce must be there, with at most 8,000 characters")
    _record(job, request, caller, ledger, nonce=nonce)
    return JSONResponse({})


@router.post("/requests")
def post_pulled(pulled: PulledRequest, request: Request, caller: Writer, ledger: Ledger) -> JSONResponse:
    """Records a pending erasure that a puller has found, and tells its result once it has one. It may be called again and again."""
    found = _record(pulled, request, caller, ledger)
    return JSONResponse({"reference": found.reference, "state": found.state.value, "result": make_result(found)})


def _read_job(body: bytes) -> Job:
    """Read the body of a webhook. Raises Refused, with the places of its faults and nothing of its content."""
    try:
        return _JOB.validate_python(parse(body))
    except ValidationError as error:
        places = {"/" + "/".join(map(str, one["loc"])) for one in error.errors(include_input=False)}
        raise Refused(f"the body is no job of Transcend's: see {', '.join(sorted(places))}") from None
    except (ValueError, RecursionError):
        raise Refused("the body is no JSON") from None


def _record(
    job: Job | PulledRequest, request: Request, caller: Caller, ledger: Session, *, nonce: str | None = None
) -> Managed:
    """Record an erasure by one identity. nonce: under which its result is sent; without one a puller sends it. Raises Refused."""
    transcend: Transcend = request.app.state.transcend
    settings: Settings = request.app.state.settings
    subject = transcend.name_subject(job.type, job.identifier)
    if subject is None:
        raise Refused(
            "the declaration of Transcend has no identity of this type: an erasure by it cannot be carried out"
        )
    key = settings.sample_key_bytes
    check_sample_key(ledger, key)
    body_sha256 = hash_job(job.request_id, job.type, job.identifier, subject, key=key)
    known = find_reference(ledger, tenant_id=caller.tenant_id, manager=MANAGER, body_sha256=body_sha256)
    reference = known or make_reference(job.request_id)
    try:
        return record_managed_request(
            ledger,
            caller,
            settings=settings,
            manager=MANAGER,
            reference=reference,
            people=[subject],
            regulation=transcend.declaration.regulation,
            received_at=job.created_at,
            quiet=transcend.declaration.quiet,
            body_sha256=body_sha256,
            reply=None if nonce is None else seal(nonce, key=key, reference=reference),
        )
    except InvalidTime as error:
        raise Refused(str(error).replace("received_at", "createdAt")) from None
