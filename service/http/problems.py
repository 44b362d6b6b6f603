"""What the service itself refuses; what each answers in HTTP, and what the ledger's errors answer, is the table in problems.py.

ServiceError
├── ScopeMissing           the caller's: the key is good, but not for this
├── UnsupportedMediaType   the caller's: the body is not declared as JSON
├── BodyTooLarge           the caller's: more bytes than the operator allows
├── InvalidLine            the caller's: a line of an uploaded list is no sample ID
├── TooManyCalls           the caller's: more calls than its key may make
├── CrossSite              another site's: a form of the console that was not sent from it
└── NotReady               passing: the database or the broker does not answer
"""

import difflib
import json
import logging
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi import HTTPException as FastAPIError
from fastapi.exceptions import RequestValidationError
from sqlalchemy.exc import DBAPIError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from starlette.exceptions import HTTPException

from ledger import errors as refused
from service.http.headers import SECURITY_HEADERS


class ServiceError(Exception):
    """Base of all errors that the service raises on purpose; the message goes to the caller as `detail`."""


class ScopeMissing(ServiceError):
    """The key lacks the scope that the call needs; the message names both."""


class UnsupportedMediaType(ServiceError):
    """The body's Content-Type is not JSON."""


class BodyTooLarge(ServiceError, FastAPIError):
    """The body has more bytes than allowed; an HTTPException too, because FastAPI turns any other while reading into 400."""

    def __init__(self, message: str) -> None:
        FastAPIError.__init__(self, 413, message)

    def __str__(self) -> str:
        return str(self.detail)


class InvalidLine(ServiceError):
    """An uploaded list can not be read; the message names the line and nothing that stands on it."""


class TooManyCalls(ServiceError):
    """The key's rate is exceeded; `retry_after` is the seconds after which a call passes again."""

    def __init__(self, message: str, *, retry_after: int) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class CrossSite(ServiceError):
    """A form of the console was sent from another site."""


class NotReady(ServiceError):
    """Something behind the service does not answer; `checks` says what by name."""

    def __init__(self, message: str, *, checks: dict[str, str]) -> None:
        super().__init__(message)
        self.checks = checks


MOST = 20
"""No more faults than this are listed; the rest are counted."""

_FIELD_NAME = re.compile(r"[a-z][a-z_]{0,39}")


def faults_of(errors: Sequence[Mapping[str, Any]], *, known: Iterable[str] = ()) -> list[dict[str, str]]:
    """Pydantic's errors as `{"pointer" | "in" and "name", "detail"}`, in order, at most `MOST`.

    known: the body's field names, from which the nearest to a misspelt one is offered.
    """
    known = list(known)
    return [_place(error) | {"detail": _detail(error, known)} for error in errors[:MOST]]


def _place(error: Mapping[str, Any]) -> dict[str, str]:
    """A JSON pointer (RFC 6901) into the body, or the name of a header, query or path parameter."""
    source, *steps = error["loc"]
    if source != "body":
        return {"in": str(source), "name": ".".join(map(str, steps))}
    deeper = str(error.get("ctx", {}).get("field") or "")
    steps += deeper.split(".") if deeper else []
    return {"pointer": "".join("/" + _step(step) for step in steps)}


def _step(step: str | int) -> str:
    if isinstance(step, int) or _FIELD_NAME.fullmatch(step):
        return str(step)
    return "?"


def _detail(error: Mapping[str, Any], known: Sequence[str]) -> str:
    if error["type"] == "model_attributes_type":
        return "Must be a JSON object."
    if error["type"] != "extra_forbidden":
        return sentence(str(error["msg"]))
    name = str(error["loc"][-1])
    if not _FIELD_NAME.fullmatch(name):
        return "There is no such field."
    near = difflib.get_close_matches(name, known, n=1)
    return f"There is no field {name}" + (f"; did you mean {near[0]}?" if near else ".")


def masked(message: str, sent: object) -> str:
    """A message without the strings that the caller sent, but those that look like a field's name or a word of ours."""
    for text in sorted(_strings(sent), key=len, reverse=True):
        if not _FIELD_NAME.fullmatch(text):
            message = message.replace(repr(text), "'…'")
            message = message.replace(text, "…") if len(text) > 3 else message
    return message


def _strings(sent: object) -> Iterator[str]:
    """Every string in a JSON value, however deep it lies: callers nest deeper than Python recurses."""
    left = [sent]
    while left:
        match left.pop():
            case str() as text:
                yield text
            case Mapping() as items:
                left += [*items.keys(), *items.values()]
            case list() | tuple() as items:
                left += items


def sentence(message: str) -> str:
    """A message as a sentence: with a capital and an end."""
    message = message.removeprefix("Value error, ").strip()
    ended = message if message.endswith((".", "?", "!")) else message + "."
    return ended[:1].upper() + ended[1:]


logger = logging.getLogger(__name__)

MEDIA_TYPE = "application/problem+json"
TYPE_BASE = "https://expunge.dev/problems/"


@dataclass(frozen=True, slots=True)
class ProblemType:
    """A kind of problem: its name in the stable `type` URI, its status and its title."""

    slug: str
    status: int
    title: str

    @property
    def uri(self) -> str:
        """The `type` that clients compare against."""
        return TYPE_BASE + self.slug


MALFORMED_JSON = ProblemType("malformed-json", 400, "The body is not JSON")
INVALID = ProblemType("invalid-request", 422, "The request does not have the right shape")
UNEXPECTED = ProblemType("unexpected", 500, "Something went wrong on our side")
NOT_READY = ProblemType("not-ready", 503, "The service is not ready")

PROBLEMS: dict[type[Exception], ProblemType] = {
    refused.KeyRefused: ProblemType("unauthenticated", 401, "An API key is needed"),
    CrossSite: ProblemType("cross-site", 403, "Not from another site"),
    ScopeMissing: ProblemType("scope-missing", 403, "The API key may not do this"),
    refused.NotFound: ProblemType("not-found", 404, "There is nothing here"),
    refused.UnknownDataset: ProblemType("unknown-dataset", 404, "There is no such dataset"),
    refused.UnknownModel: ProblemType("unknown-model", 404, "There is no such model"),
    refused.Conflict: ProblemType("conflict", 409, "Not possible in this state"),
    refused.IdempotencyInProgress: ProblemType(
        "idempotency-in-progress", 409, "The first request with this key is still running"
    ),
    refused.SamplesErased: ProblemType("samples-erased", 409, "It still knows what was erased"),
    refused.TooLate: ProblemType("too-late", 409, "Too late for that"),
    BodyTooLarge: ProblemType("body-too-large", 413, "The body is too large"),
    UnsupportedMediaType: ProblemType("unsupported-media-type", 415, "The body must be JSON"),
    InvalidLine: ProblemType("invalid-line", 422, "A line is no sample ID"),
    refused.Refused: ProblemType("refused", 422, "The request cannot be carried out"),
    refused.NoSamplesMatch: ProblemType("no-samples-match", 422, "No model was trained on any of these samples"),
    refused.InvalidTime: INVALID,
    refused.InvalidCursor: ProblemType("invalid-cursor", 422, "The cursor is not one of this list's"),
    refused.IdempotencyMismatch: ProblemType(
        "idempotency-key-reused", 422, "The idempotency key stands for another body"
    ),
    TooManyCalls: ProblemType("too-many-calls", 429, "Too many calls"),
    NotReady: NOT_READY,
    OperationalError: NOT_READY,
    PoolTimeout: NOT_READY,
}
"""What each error answers; an error that is not here is ours: 500, logged, and nothing said about it."""


def problem(kind: ProblemType, detail: str, *, headers: Mapping[str, str] | None = None, **more: object) -> Response:
    """A problem answer; `more` becomes extension members."""
    body = {"type": kind.uri, "title": kind.title, "status": kind.status, "detail": detail, **more}
    # ASCII escapes: a lone surrogate in a name the caller sent has no UTF-8 form.
    return Response(json.dumps(body), kind.status, dict(headers or {}), media_type=MEDIA_TYPE)


def answer(error: Exception) -> Response:
    """The problem that an error in `PROBLEMS` answers, by its nearest listed class."""
    kind = next(PROBLEMS[cls] for cls in type(error).__mro__ if cls in PROBLEMS)
    if kind is NOT_READY:
        checks = {"checks": error.checks} if isinstance(error, NotReady) else {}
        detail = str(error) if checks else "The database does not answer; try again in a few seconds."
        return problem(kind, detail, headers={"Retry-After": "5"}, **checks)
    if isinstance(error, refused.InvalidTime):
        fault = {"pointer": "/received_at", "detail": sentence(str(error))}
        return problem(kind, "One fault; see errors.", errors=[fault])
    headers = {"WWW-Authenticate": 'Bearer realm="expunge"'} if kind.status == 401 else {}
    if isinstance(error, TooManyCalls):
        headers = {"Retry-After": str(error.retry_after)}
    return problem(kind, sentence(str(error)), headers=headers)


def install(app: FastAPI) -> None:
    """Make every error of the application a problem answer."""
    for listed in PROBLEMS:
        app.add_exception_handler(listed, _listed)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(DBAPIError, _database)
    app.add_exception_handler(Exception, _unexpected)


def _listed(request: Request, error: Exception) -> Response:
    return answer(error)


def _http(request: Request, error: Exception) -> Response:
    """What the framework itself refuses: no such path, method not allowed, a body that cannot be decoded."""
    assert isinstance(error, HTTPException)
    if error.status_code == 400:
        return problem(MALFORMED_JSON, "The body cannot be read as JSON in UTF-8.")
    status = HTTPStatus(error.status_code)
    details = {
        404: "There is nothing at this path; GET /openapi.json lists what there is. Ids in paths are UUIDs.",
        405: f"{request.method} is not among the methods of this path: {(error.headers or {}).get('Allow', '')}.",
    }
    kind = ProblemType(status.phrase.lower().replace(" ", "-"), status.value, status.phrase)
    return problem(kind, details.get(status.value, status.description), headers=error.headers)


def _invalid(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    faults = error.errors()
    first = faults[0]
    if first["type"] == "json_invalid":
        return problem(
            MALFORMED_JSON, f"The body is not JSON: {first['ctx']['error']} at character {first['loc'][-1]}."
        )
    if first["loc"] == ("body",) and isinstance(error.body, bytes):
        return answer(UnsupportedMediaType("Send the body as JSON, with Content-Type: application/json."))
    known = _fields(request)
    detail = f"{len(faults)} faults" if len(faults) > 1 else "One fault"
    detail += f", of which the first {MOST} are listed." if len(faults) > MOST else "; see errors."
    return problem(INVALID, detail, errors=faults_of(faults, known=known))


def _fields(request: Request) -> list[str]:
    """The names of the fields in the body that the matched route takes."""
    body = getattr(request.scope.get("route"), "body_field", None)
    model = getattr(body, "field_info", None)
    return list(getattr(getattr(model, "annotation", None), "model_fields", {}))


def _database(request: Request, error: Exception) -> Response:
    """A connection that broke in mid-transaction is passing; any other database error is ours."""
    if isinstance(error, DBAPIError) and error.connection_invalidated:
        return answer(OperationalError("", None, error))
    return _unexpected(request, error)


def _unexpected(request: Request, error: Exception) -> Response:
    route = getattr(request.scope.get("route"), "path", "no route")
    logger.error("unexpected error in %s %s", request.method, route, exc_info=error)
    return problem(UNEXPECTED, "The error is logged; nothing was changed.", headers=SECURITY_HEADERS)
