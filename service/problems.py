"""Every error as `application/problem+json` (RFC 9457): one table of types, and the handlers that fill them in."""

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from sqlalchemy.exc import DBAPIError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from starlette.exceptions import HTTPException

from ledger import errors as refused
from service import errors
from service.headers import SECURITY_HEADERS
from service.invalid import MOST, faults_of, sentence

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
    errors.CrossSite: ProblemType("cross-site", 403, "Not from another site"),
    errors.ScopeMissing: ProblemType("scope-missing", 403, "The API key may not do this"),
    refused.NotFound: ProblemType("not-found", 404, "There is nothing here"),
    refused.UnknownDataset: ProblemType("unknown-dataset", 404, "There is no such dataset"),
    refused.UnknownModel: ProblemType("unknown-model", 404, "There is no such model"),
    refused.Conflict: ProblemType("conflict", 409, "Not possible in this state"),
    refused.IdempotencyInProgress: ProblemType(
        "idempotency-in-progress", 409, "The first request with this key is still running"
    ),
    refused.SamplesErased: ProblemType("samples-erased", 409, "It still knows what was erased"),
    refused.TooLate: ProblemType("too-late", 409, "Too late for that"),
    errors.BodyTooLarge: ProblemType("body-too-large", 413, "The body is too large"),
    errors.UnsupportedMediaType: ProblemType("unsupported-media-type", 415, "The body must be JSON"),
    errors.InvalidLine: ProblemType("invalid-line", 422, "A line is no sample ID"),
    refused.Refused: ProblemType("refused", 422, "The request cannot be carried out"),
    refused.NoSamplesMatch: ProblemType("no-samples-match", 422, "No model was trained on any of these samples"),
    refused.InvalidTime: INVALID,
    refused.InvalidCursor: ProblemType("invalid-cursor", 422, "The cursor is not one of this list's"),
    refused.IdempotencyMismatch: ProblemType(
        "idempotency-key-reused", 422, "The idempotency key stands for another body"
    ),
    errors.TooManyCalls: ProblemType("too-many-calls", 429, "Too many calls"),
    errors.NotReady: NOT_READY,
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
        checks = {"checks": error.checks} if isinstance(error, errors.NotReady) else {}
        detail = str(error) if checks else "The database does not answer; try again in a few seconds."
        return problem(kind, detail, headers={"Retry-After": "5"}, **checks)
    if isinstance(error, refused.InvalidTime):
        fault = {"pointer": "/received_at", "detail": sentence(str(error))}
        return problem(kind, "One fault; see errors.", errors=[fault])
    headers = {"WWW-Authenticate": 'Bearer realm="expunge"'} if kind.status == 401 else {}
    if isinstance(error, errors.TooManyCalls):
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
        return answer(errors.UnsupportedMediaType("Send the body as JSON, with Content-Type: application/json."))
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
