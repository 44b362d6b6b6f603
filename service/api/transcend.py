"""Transcend: the webhook by which it sends an erasure, and the call by which a puller passes on a pending one."""

from datetime import UTC, datetime
from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Depends, FastAPI, Request
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError
from sqlalchemy.orm import Session

from connectors.transcend import MANAGER, TokenRefused, Transcend, make_reference, make_result, seal
from ledger.errors import InvalidTime, Refused
from ledger.registry.access import Caller
from ledger.requests.managed import Managed
from service.api.managers import record_managed_request
from service.http.authentication import ApiRoute, Writer
from service.http.bodies import RawBody, parse
from service.http.fields import Moment
from service.http.problems import SignatureRefused
from service.http.sessions import Ledger
from service.settings import Settings


class Part(BaseModel):
    """A part of a webhook. What it has beside is ignored."""

    model_config = ConfigDict(frozen=True, populate_by_name=True)


class Value(Part):
    """The person's main identity."""

    value: str


class Profile(Part):
    """The identity that this job is about."""

    identifier: Annotated[str, Field(min_length=1, max_length=1000)]
    type: Annotated[str, Field(max_length=100)]


class Asked(Part):
    """The person's request."""

    id: UUID
    created_at: Annotated[Moment | None, Field(alias="createdAt")] = None


class Extras(Part):
    """What the job is about, and whose request it belongs to."""

    profile: Profile
    request: Asked


class Job(Part):
    """A job as the webhook brings it."""

    type: str
    core: Annotated[Value | None, Field(alias="coreIdentifier")] = None
    extras: Extras


class PulledRequest(BaseModel):
    """A pending job that a puller has found at Transcend."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    request_id: UUID
    type: Annotated[str, Field(max_length=100)]
    identifier: Annotated[str, Field(min_length=1, max_length=1000)]
    created_at: Moment | None = None


_JOB = TypeAdapter(Job)

router = APIRouter(route_class=ApiRoute, prefix="/transcend", include_in_schema=False)


def install(app: FastAPI, transcend: Transcend) -> None:
    """Add the calls to an application."""
    app.state.transcend = transcend
    app.include_router(router)
    app.state.routes = [*app.state.routes, *router.routes]


def _platform(request: Request) -> Transcend:
    found: Transcend = request.app.state.transcend
    return found


Platform = Annotated[Transcend, Depends(_platform)]


@router.post("/webhook")
def post_webhook(body: RawBody, request: Request, transcend: Platform, caller: Writer, ledger: Ledger) -> JSONResponse:
    """Records an erasure. The answer is the same whether or not anybody knows the person, and to a replay."""
    try:
        claims = transcend.check_token(request.headers.get("x-sombra-token", ""), at=datetime.now(UTC))
    except TokenRefused as error:
        raise SignatureRefused(str(error)) from None
    job = _read_job(body)
    if "value" in claims and (job.core is None or claims["value"] != job.core.value):
        raise SignatureRefused("the token is for another person than the body")
    if job.type != "ERASURE":
        raise Refused("nothing but ERASURE is supported: a model gives no data back")
    nonce = request.headers.get("x-transcend-nonce", "")
    if not 1 <= len(nonce) <= 8000 or not nonce.isascii() or not nonce.isprintable() or " " in nonce:
        raise Refused("the header x-transcend-nonce must be there, with at most 8,000 characters")
    profile, asked = job.extras.profile, job.extras.request
    _record(ledger, caller, request.app.state.settings, transcend, asked.id, profile, asked.created_at, nonce=nonce)
    return JSONResponse({})


@router.post("/requests")
def post_pulled(
    pulled: PulledRequest, request: Request, transcend: Platform, caller: Writer, ledger: Ledger
) -> JSONResponse:
    """Records a pending erasure that a puller has found, and tells its result once it has one. It may be called again and again."""
    profile = Profile(identifier=pulled.identifier, type=pulled.type)
    found = _record(
        ledger, caller, request.app.state.settings, transcend, pulled.request_id, profile, pulled.created_at
    )
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
    ledger: Session,
    caller: Caller,
    settings: Settings,
    transcend: Transcend,
    request_id: UUID,
    profile: Profile,
    created_at: datetime | None,
    *,
    nonce: str | None = None,
) -> Managed:
    subject = transcend.name_subject(profile.type, profile.identifier)
    if subject is None:
        raise Refused(
            "the declaration of Transcend has no identity of this type: an erasure by it cannot be carried out"
        )
    key = settings.sample_key_bytes
    reference = make_reference(request_id, profile.type, profile.identifier, subject, key=key)
    try:
        return record_managed_request(
            ledger,
            caller,
            settings=settings,
            manager=MANAGER,
            reference=reference,
            people=[subject],
            regulation=transcend.declaration.regulation,
            received_at=created_at,
            quiet=transcend.quiet,
            same_by_reference=True,
            reply=None if nonce is None else seal(nonce, key=key, reference=reference),
        )
    except InvalidTime as error:
        raise Refused(str(error).replace("received_at", "createdAt")) from None
