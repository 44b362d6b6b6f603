"""Errors of the service, and the problem details (RFC 9457) with which it responds to every error.

`PROBLEMS` maps the service's errors, and the ledger's, to what the caller gets. NotReady is transient; all others are the fault of
the caller, or of the system or site that sent the call.
"""

import difflib
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

from fastapi import APIRouter, FastAPI, Request, Response
from fastapi import HTTPException as FastAPIError
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from pydantic import BaseModel, ConfigDict, Field
from starlette.exceptions import HTTPException

from ledger import errors
from ledger.db import DATABASE_AWAY
from service.http.fields import PATTERN_RULES
from service.http.middleware import SECURITY_HEADERS

MEDIA_TYPE = "application/problem+json"
TYPE_BASE = "https://expunge.dev/problems/"

MAX_FAULTS = 20
"""Faults that a problem lists; the rest are counted."""

UPLOADS = {"sample_ids": "POST /uploads", "subjects": "POST /uploads/subjects"}
"""Lists in a body of which a longer one is uploaded."""

IDS = frozenset({"sample_ids", "subjects", "sample_id", "subject"})
"""Fields of a body with IDs of samples or people, which are strings also where a data set counts them."""

_FIELD_NAME = re.compile(r"[a-z][a-z_]{0,39}")


class ServiceError(Exception):
    """Base of all errors that the service raises on purpose; the caller gets the message as `detail`."""


class ScopeMissing(ServiceError):
    """The key lacks the scope that the call needs; the message names both."""


class InvalidQuery(ServiceError):
    """The query has parameters that the route does not take, or has one twice: a misspelt filter would show everything.

    faults: what is wrong, by the parameter's name.
    """

    def __init__(self, faults: Mapping[str, str]) -> None:
        super().__init__("the query has parameters that the route does not take")
        self.faults = faults


class UnsupportedMediaType(ServiceError):
    """The body's Content-Type is not one that the call takes."""


class BodyError(ServiceError, FastAPIError):
    """Base of what is raised while a body is read. An HTTPException too: FastAPI turns any other error into a 400 there."""

    status = 400

    def __init__(self, message: str) -> None:
        FastAPIError.__init__(self, self.status, message)

    def __str__(self) -> str:
        return str(self.detail)


class BodyTooLarge(BodyError):
    """The body has too many bytes."""

    status = 413


class BodyStalled(BodyError):
    """The body does not arrive in time."""

    status = 408


class MalformedJson(BodyError):
    """The body is JSON for a lenient parser alone."""


class InvalidBody(BodyError):
    """A large body does not fit its model; `faults` are pydantic's errors."""

    status = 422

    def __init__(self, faults: Sequence[Mapping[str, Any]]) -> None:
        super().__init__("the body does not have the right shape")
        self.faults = faults


class InvalidLine(ServiceError):
    """An uploaded list cannot be read; the message has the line's number and nothing of its content."""


class TooManyCalls(ServiceError):
    """The rate of a key or an address is exceeded, or a tenant's share; `retry_after` is the seconds until a call passes again."""

    def __init__(self, message: str, *, retry_after: int) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class CrossSite(ServiceError):
    """A form of the console was sent from another site."""


class SignatureRefused(ServiceError):
    """The message of another system is not signed with the secret or the key that the operator has declared."""


class NotReady(ServiceError):
    """Something that the service depends on does not answer, or is full; `checks` says what, by name."""

    def __init__(self, message: str, *, checks: dict[str, str]) -> None:
        super().__init__(message)
        self.checks = checks


class Fault(BaseModel):
    """One thing that is wrong with the request: in the body (`pointer`), or in a parameter (`in` and `name`)."""

    model_config = ConfigDict(populate_by_name=True)

    pointer: str | None = Field(
        default=None, description="JSON pointer (RFC 6901) into the body.", examples=["/method/steps"]
    )
    where: str | None = Field(default=None, alias="in", description="path, query or header")
    name: str | None = Field(default=None, description="The parameter's name.")
    detail: str


class Problem(BaseModel):
    """Problem details (RFC 9457)."""

    model_config = ConfigDict(extra="allow")

    type: str = Field(description="Stable URI of the kind of problem.", examples=[TYPE_BASE + "invalid-request"])
    title: str = Field(description="The same for every problem of this type.")
    status: int
    detail: str = Field(description="What was wrong this time, and what would be right.")
    errors: list[Fault] | None = Field(default=None, description="With `invalid-request`: what is wrong, and where.")


@dataclass(frozen=True, slots=True)
class ProblemType:
    """A kind of problem: its name in the stable `type` URI, its status and its title."""

    slug: str
    status: int
    title: str

    @property
    def uri(self) -> str:
        """The `type` that clients compare."""
        return TYPE_BASE + self.slug


MALFORMED_JSON = ProblemType("malformed-json", 400, "The body is not JSON")
INVALID = ProblemType("invalid-request", 422, "The request does not have the right shape")
METHOD_NOT_ALLOWED = ProblemType("method-not-allowed", 405, "The path does not take this method")
UNEXPECTED = ProblemType("unexpected", 500, "Something went wrong on our side")
NOT_READY = ProblemType("not-ready", 503, "The service is not ready")

PROBLEMS: dict[type[Exception], ProblemType] = {
    errors.KeyRefused: ProblemType("unauthenticated", 401, "An API key is needed"),
    CrossSite: ProblemType("cross-site", 403, "The form came from another site"),
    SignatureRefused: ProblemType("signature-refused", 403, "The signature is missing or wrong"),
    ScopeMissing: ProblemType("scope-missing", 403, "The API key lacks a scope"),
    errors.NotFound: ProblemType("not-found", 404, "Not found"),
    errors.UnknownDataset: ProblemType("unknown-dataset", 404, "There is no such dataset"),
    errors.UnknownModel: ProblemType("unknown-model", 404, "There is no such model"),
    errors.Conflict: ProblemType("conflict", 409, "Not possible in this state"),
    errors.IdempotencyInProgress: ProblemType(
        "idempotency-in-progress", 409, "The first request with this key is still running"
    ),
    errors.SamplesErased: ProblemType("samples-erased", 409, "The version knows erased samples"),
    errors.TooLate: ProblemType("too-late", 409, "Too late for this"),
    MalformedJson: MALFORMED_JSON,
    InvalidBody: INVALID,
    InvalidQuery: INVALID,
    BodyStalled: ProblemType("body-stalled", 408, "The body does not arrive"),
    BodyTooLarge: ProblemType("body-too-large", 413, "The body is too large"),
    UnsupportedMediaType: ProblemType(
        "unsupported-media-type", 415, "The body has another media type than the call takes"
    ),
    InvalidLine: ProblemType("invalid-line", 422, "A line is not a sample ID"),
    errors.Refused: ProblemType("refused", 422, "The request cannot be carried out"),
    errors.NoSamplesMatch: ProblemType("no-samples-match", 422, "No model was trained on any of these samples"),
    errors.MethodUnsuitable: ProblemType("method-unsuitable", 422, "The method cannot run on the model"),
    errors.InvalidPlace: ProblemType("not-found", 404, "Not found"),
    errors.InvalidTime: INVALID,
    errors.InvalidCursor: ProblemType("invalid-cursor", 422, "The cursor is not from this list"),
    errors.IdempotencyMismatch: ProblemType(
        "idempotency-key-reused", 422, "The idempotency key was used with another body"
    ),
    TooManyCalls: ProblemType("too-many-calls", 429, "Too many calls"),
    errors.WrongSampleKey: ProblemType("wrong-sample-key", 503, "The ledger is under another sample key"),
    NotReady: NOT_READY,
    **dict.fromkeys(DATABASE_AWAY, NOT_READY),
}
"""The problem for each error. An error that is not here is ours: 500, logged, and the caller learns nothing about it."""


def install(app: FastAPI) -> None:
    """Make the application respond to every error with a problem."""
    for kind, handler in HANDLERS.items():
        app.add_exception_handler(kind, handler)


def include(app: FastAPI, router: APIRouter) -> None:
    """Add a router's calls to an application, and list its routes for the methods that a 405 names: `app.routes` has them not."""
    app.include_router(router)
    app.state.routes = [*getattr(app.state, "routes", ()), *router.routes]


def handle(request: Request, error: Exception) -> Response:
    """Make the response to an error whose class, or a base of it, is in `HANDLERS`."""
    return next(HANDLERS[cls] for cls in type(error).__mro__ if cls in HANDLERS)(request, error)


def problem_type(error: Exception) -> ProblemType:
    """Find the problem of an error by its nearest class in `PROBLEMS`."""
    return next(PROBLEMS[cls] for cls in type(error).__mro__ if cls in PROBLEMS)


def respond(error: Exception) -> Response:
    """Make the response to an error whose class, or a base of it, is in `PROBLEMS`."""
    kind = problem_type(error)
    if kind is NOT_READY:
        checks = {"checks": error.checks} if isinstance(error, NotReady) else {}
        detail = str(error) if checks else "The database does not answer; try again in a few seconds."
        return _problem(kind, detail, headers=refusal_headers(error), **checks)
    if isinstance(error, errors.InvalidTime):
        fault = {"pointer": "/received_at", "detail": _sentence(str(error), of="received_at")}
        return _problem(kind, "One fault; see errors.", errors=[fault])
    if isinstance(error, InvalidQuery):
        faults = [{"in": "query", "name": _step(name), "detail": detail} for name, detail in error.faults.items()]
        return _problem(kind, "The query does not fit this path; see errors.", errors=faults[:MAX_FAULTS])
    challenge = {"WWW-Authenticate": 'Bearer realm="expunge"'} if kind.status == 401 else {}
    return _problem(kind, _sentence(str(error)), headers=challenge | refusal_headers(error))


def refusal_headers(error: Exception) -> dict[str, str]:
    """Give the headers of the response to an error, a problem or a page: when to try again, and that the connection is closed."""
    if problem_type(error).status == 503:
        return {"Retry-After": "5"}
    if isinstance(error, TooManyCalls):
        return {"Retry-After": str(error.retry_after)}
    if isinstance(error, BodyStalled):
        return {"Connection": "close"}
    return {}


def _problem(kind: ProblemType, detail: str, *, headers: Mapping[str, str] | None = None, **more: object) -> Response:
    """Make a problem response; `more` becomes extension members."""
    body = {"type": kind.uri, "title": kind.title, "status": kind.status, "detail": detail, **more}
    # json.dumps escapes to ASCII: a lone surrogate in a name that the caller sent has no UTF-8 form.
    return Response(json.dumps(body), kind.status, dict(headers or {}), media_type=MEDIA_TYPE)


def _handle_listed(request: Request, error: Exception) -> Response:
    return respond(error)


def _handle_http(request: Request, error: Exception) -> Response:
    """Respond to what the framework itself refuses: an unknown path, a wrong method, a body that cannot be decoded."""
    assert isinstance(error, HTTPException)
    if error.status_code == 400:
        detail = "The body cannot be read: it is not UTF-8, nests too deep, or has a number of thousands of digits."
        return _problem(MALFORMED_JSON, detail)
    status = HTTPStatus(error.status_code)
    headers = dict(error.headers or {})
    if status == HTTPStatus.METHOD_NOT_ALLOWED:
        headers["Allow"] = ", ".join(_methods(request)) or headers.get("Allow", "")
    details = {
        404: "There is nothing at this path; GET /openapi.json lists what there is. IDs in paths are UUIDs.",
        405: f"The methods of this path are: {headers.get('Allow', '')}.",
    }
    known = {404: PROBLEMS[errors.NotFound], 405: METHOD_NOT_ALLOWED}
    kind = known.get(status) or ProblemType(status.phrase.lower().replace(" ", "-"), status.value, status.phrase)
    return _problem(kind, details.get(status.value, status.description), headers=headers)


def _methods(request: Request) -> list[str]:
    """List the methods of a path over all of its routes. Starlette names those of the first alone."""
    routes: Sequence[APIRoute] = request.app.state.routes
    return sorted(
        {method for route in routes if route.path_regex.match(request.url.path) for method in route.methods or ()}
    )


def _handle_invalid(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    faults = error.errors()
    first = faults[0]
    if first["type"] == "json_invalid":
        return _problem(
            MALFORMED_JSON, f"The body is not JSON: {first['ctx']['error']} at character {first['loc'][-1]}."
        )
    if first["loc"] == ("body",) and isinstance(error.body, bytes):
        return respond(UnsupportedMediaType("Send the body as JSON, with Content-Type: application/json."))
    return _invalid(request, faults)


def _handle_invalid_body(request: Request, error: Exception) -> Response:
    assert isinstance(error, InvalidBody)
    return _invalid(request, error.faults)


HANDLERS: Mapping[type[Exception], Callable[[Request, Exception], Response]] = {
    **dict.fromkeys(PROBLEMS, _handle_listed),
    InvalidBody: _handle_invalid_body,
    RequestValidationError: _handle_invalid,
    HTTPException: _handle_http,
}
"""What responds to each error; of several classes the nearest."""


def _invalid(request: Request, faults: Sequence[Mapping[str, Any]]) -> Response:
    detail = f"{len(faults)} faults" if len(faults) > 1 else "one fault"
    detail += f", of which the first {MAX_FAULTS} are listed." if len(faults) > MAX_FAULTS else "; see errors."
    if any(isinstance(fault["loc"][-1], int) for fault in faults):  # 100,000 faults would cost a second
        detail = f"At least {detail} Of a list, what follows its first fault may not have been checked."
    return _problem(INVALID, _sentence(detail), errors=faults_of(faults, known=_body_fields(request)))


def unexpected() -> Response:
    """Make the response to an error that is ours: 500, and the caller learns nothing about it but where to find it in the log."""
    detail = "The error is logged under the X-Request-ID of this response; nothing was changed."
    return _problem(UNEXPECTED, detail, headers=SECURITY_HEADERS)


def _body_fields(request: Request) -> list[str]:
    """List the fields of the body that the matched route takes."""
    body = getattr(request.scope.get("route"), "body_field", None)
    model = getattr(body, "field_info", None)
    return list(getattr(getattr(model, "annotation", None), "model_fields", {}))


def faults_of(found: Sequence[Mapping[str, Any]], *, known: Iterable[str] = ()) -> list[dict[str, str]]:
    """Turn pydantic's errors into the first `MAX_FAULTS` faults, in order; see `Fault`.

    known: the body's fields, from which the nearest to a misspelt one is suggested.
    """
    known = list(known)
    return [_place(error) | {"detail": _detail(error, known)} for error in found[:MAX_FAULTS]]


def _place(error: Mapping[str, Any]) -> dict[str, str]:
    """Make a JSON pointer (RFC 6901) into the body, or the name of a header, query or path parameter."""
    source, *steps = error["loc"]
    if source != "body":
        return {"in": str(source), "name": ".".join(map(str, steps))}
    deeper = str(error.get("ctx", {}).get("field") or "")
    steps += deeper.split(".") if deeper else []
    return {"pointer": "".join("/" + _step(step) for step in steps)}


def _step(step: str | int) -> str:
    """Return a step of a pointer, or `?` if it could be a sample ID."""
    return str(step) if isinstance(step, int) or _FIELD_NAME.fullmatch(step) else "?"


def _detail(error: Mapping[str, Any], known: Sequence[str]) -> str:
    if error["type"] in ("model_attributes_type", "dict_type"):
        return "Must be a JSON object."
    name, context = str(error["loc"][-1]), error.get("ctx", {})
    if error["type"] == "string_type" and IDS.intersection(error["loc"]):
        return 'Must be a string: the ID 7, for example, is written "7".'
    if error["type"] == "string_pattern_mismatch" and context.get("pattern") in PATTERN_RULES:
        return _sentence(PATTERN_RULES[context["pattern"]])
    if error["type"] == "too_long" and name in UPLOADS:
        most, length = context["max_length"], context["actual_length"]
        return f"At most {most:,} may stand in a body, and these are {length:,}; send a longer list by {UPLOADS[name]}."
    if error["type"] == "too_short":
        return f"Must have {context['min_length']:,} or more; it has {context['actual_length']:,}."
    if error["type"] != "extra_forbidden":
        return _sentence(str(error["msg"]), of=str(context.get("field") or name).rpartition(".")[2])
    return missing_name("field", name, known)


def missing_name(what: str, name: str, known: Iterable[str]) -> str:
    """Say that there is no field or parameter of this name, and which is the nearest. What may be a sample ID is not repeated."""
    if not _FIELD_NAME.fullmatch(name):
        return f"There is no such {what}."
    near = difflib.get_close_matches(name, list(known), n=1)
    return f"There is no {what} {name}" + (f"; did you mean {near[0]}?" if near else ".")


def masked(message: str, sent: object) -> str:
    """Mask the strings that the caller sent in a message, except those that look like a field's name or a word of ours."""
    for text in sorted(_strings(sent), key=len, reverse=True):
        if not _FIELD_NAME.fullmatch(text):
            message = message.replace(repr(text), "'…'")
            message = message.replace(text, "…") if len(text) > 3 else message
    return message


def _strings(sent: object) -> Iterator[str]:
    """Yield every string in a JSON value."""
    return (value for value in _values(sent) if isinstance(value, str))


def count_values(sent: object) -> int:
    """Count the names and values in a JSON value."""
    return sum(1 for _ in _values(sent))


def _values(sent: object) -> Iterator[object]:
    """Yield every name and value in a JSON value. Not recursive: callers nest deeper than Python recurses."""
    left = [sent]
    while left:
        value = left.pop()
        yield value
        match value:
            case Mapping() as items:
                left += [*items.keys(), *items.values()]
            case list() | tuple() as items:
                left += items


def _sentence(message: str, *, of: str = "") -> str:
    """Turn a message into a sentence, with a capital and a full stop. of: a field, whose name stays as it is at the beginning."""
    message = message.removeprefix("Value error, ").strip()
    closed = message if message.endswith((".", "?", "!")) else message + "."
    return closed if of and closed.startswith(f"{of} ") else closed[:1].upper() + closed[1:]
