"""Request managers: the calls of those that the operator has declared, and how each manager's request is recorded."""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from functools import partial
from typing import Annotated, Any
from urllib.parse import quote

from fastapi import APIRouter, Depends, FastAPI, Path, Request
from fastapi.responses import JSONResponse
from pydantic import TypeAdapter, ValidationError
from sqlalchemy.orm import Session

from connectors.managers import BodyMismatch, RequestManager
from ledger.db import now
from ledger.errors import NotFound, Refused
from ledger.registry.access import Caller
from ledger.requests.managed import Managed, Received, cancel_managed, get_managed, submit_managed
from ledger.sample_ids import KEY_BYTES, hash_body, samples_sha256, subject_digest
from ledger.sample_key import check_sample_key
from service.api.unlearn_requests import NewUnlearnRequest, record_request
from service.http.authentication import ApiRoute, Reader, Writer
from service.http.bodies import Bounds
from service.http.fields import Moment, Name, Subject
from service.http.problems import include
from service.http.sessions import Ledger
from service.settings import Settings

BODY = Bounds(256 * 1024, advice="A request names one person, in a few ways.")

_SUBJECTS = TypeAdapter(list[Subject])
_MOMENT: TypeAdapter[datetime] = TypeAdapter(Moment)

router = APIRouter(route_class=ApiRoute, prefix="/managers", include_in_schema=False)

ManagerName = Annotated[str, Path(max_length=50)]


def record_managed_request(
    ledger: Session,
    caller: Caller,
    *,
    settings: Settings,
    manager: str,
    reference: str,
    people: Sequence[str],
    regulation: str,
    received_at: datetime | None,
    quiet: timedelta,
    callback_urls: Sequence[str] = (),
    reply: bytes | None = None,
    body_sha256: str | None = None,
) -> Managed:
    """Record a manager's request once, whether or not anybody knows the people.

    body_sha256: by which it is known when it comes again; by default, the hash of all that is given.
    Raises Refused, WrongSampleKey, and what `submit_managed` raises.
    """
    try:
        _SUBJECTS.validate_python(people)
    except ValidationError:
        raise Refused("an identity is too long to name a subject, or has a control character in it") from None
    key = settings.sample_key_bytes
    check_sample_key(ledger, key)
    given = {
        "subjects": samples_sha256({subject_digest(key[:KEY_BYTES], one) for one in people}),
        "regulation": regulation,
        "received_at": None if received_at is None else received_at.isoformat(),
        "callback_urls": list(callback_urls),
    }
    moment = received_at or now(ledger)
    received = Received(
        manager=manager,
        reference=reference,
        body_sha256=body_sha256 or hash_body(given, key=key),
        regulation=regulation,
        received_at=moment,
        callback_urls=tuple(dict.fromkeys(callback_urls)),
        reply=reply,
    )
    new = NewUnlearnRequest(subjects=list(people), regulation=regulation, received_at=moment, external_id=reference)
    submit = partial(record_request, ledger, new, caller, settings=settings)
    return submit_managed(ledger, received, submit, tenant_id=caller.tenant_id, quiet=quiet)


def install(app: FastAPI, managers: Mapping[str, RequestManager]) -> None:
    """Add the calls of the managers to an application."""
    app.state.managers = managers
    include(app, router)


def _find_manager(name: ManagerName, request: Request) -> RequestManager:
    managers: Mapping[str, RequestManager] = request.app.state.managers
    if name not in managers:
        raise NotFound(f"EXPUNGE_MANAGERS declares no manager of this name; it has {', '.join(managers)}")
    return managers[name]


Manager = Annotated[RequestManager, Depends(_find_manager)]


@router.post("/{name}/requests")
def post_request(
    name: ManagerName, body: dict[str, Any], request: Request, manager: Manager, caller: Writer, ledger: Ledger
) -> JSONResponse:
    """Records an erasure request in the manager's own form. The answer is the same whether or not anybody knows the person."""
    try:
        reference = manager.read_reference(body)
        manager.check_type(body)
        people = manager.read_subjects(body)
        received_at = None if manager.received_at is None else _MOMENT.validate_python(manager.read_time(body))
    except BodyMismatch as error:
        raise Refused(str(error)) from None
    except ValidationError:
        raise Refused(
            f"{manager.received_at} must be a time of RFC 3339 with an offset, as 2026-01-31T09:00:00Z"
        ) from None
    found = record_managed_request(
        ledger,
        caller,
        settings=request.app.state.settings,
        manager=name,
        reference=reference,
        people=people,
        regulation=manager.regulation,
        received_at=received_at,
        quiet=manager.quiet,
    )
    location = {"Location": f"{router.prefix}/{name}/requests/{quote(reference, safe='')}"}
    return JSONResponse(manager.answer(reference, found.state), status_code=202, headers=location)


@router.get("/{name}/requests/{reference}")
def get_status(name: ManagerName, reference: Name, manager: Manager, caller: Reader, ledger: Ledger) -> JSONResponse:
    """The status of a request, in the manager's words. What failed and is still owed is in progress."""
    found = get_managed(ledger, tenant_id=caller.tenant_id, manager=name, reference=reference)
    return JSONResponse(manager.answer(reference, found.state))


@router.delete("/{name}/requests/{reference}")
def delete_request(
    name: ManagerName, reference: Name, manager: Manager, caller: Writer, ledger: Ledger
) -> JSONResponse:
    """Withdraws a request that is pending. 409 if it is too late for that."""
    found = cancel_managed(ledger, tenant_id=caller.tenant_id, manager=name, reference=reference)
    return JSONResponse(manager.answer(reference, found.state))
