"""Authentication and scopes: a caller is a parameter of its route, as `Reader`, `Writer`, `Promoter`, `ReportReader`,
`WeightsReader` or `Admin`.

A route finds its caller before the first byte of the body is read. So a call without a good key costs one look-up at most.
"""

from collections import Counter
from collections.abc import Callable, Coroutine, Iterator
from typing import Annotated, Any, TypeVar

from fastapi import Depends, Request, Response, Security
from fastapi.concurrency import run_in_threadpool
from fastapi.dependencies.models import Dependant
from fastapi.routing import APIRoute
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from ledger.errors import KeyRefused
from ledger.registry.access import Caller, Scope, authenticate
from ledger.resources import Job, UnlearnRequest
from service.http.bodies import JsonRequest
from service.http.limits import count_address, count_call
from service.http.problems import InvalidQuery, ScopeMissing, missing_name
from service.http.sessions import Database

_bearer = HTTPBearer(
    auto_error=False,
    bearerFormat="expunge_<prefix>_<secret>",
    scheme_name="API key",
    description="An API key, from the operator; it belongs to one tenant and has scopes.",
)

Handler = Callable[[Request], Coroutine[Any, Any, Response]]

Shown = TypeVar("Shown", Job, UnlearnRequest)


def require(caller: Caller, scope: Scope) -> None:
    """Raise ScopeMissing if the caller's key lacks the scope."""
    if not caller.may(scope):
        raise ScopeMissing(f"this call needs the scope {scope}; the key has {', '.join(sorted(caller.scopes))}")


def shown_to(caller: Caller, found: Shown) -> Shown:
    """Return a request or a job as the caller may see it: whole, or for a key without `requests:read` without what became of it.

    Whether, where and how many samples matched tells who is in a training set: a request's state, its targets, the datasets in
    which people were found. So do a run's figures, and the sentences about it: an audit's begins with the number of samples.
    """
    if caller.may(Scope.REQUESTS_READ):
        return found
    if isinstance(found, Job):
        unknown = dict.fromkeys(("samples", "requests", "verdict", "detail", "fallback", "eta_seconds"))
        return found.model_copy(update={**unknown, "metrics": {}, "timings": {}, "step": 0, "total": 0})
    named = () if found.every_dataset else tuple(sorted(found.datasets))
    unknown = dict.fromkeys(("state", "samples", "subjects", "unserved", "finished_at"))
    dismissed = dict.fromkeys(("dismissed_at", "dismissed_by", "dismissal_reason"))
    shown = {"dataset": named[0] if named else None, "datasets": named, "targets": ()}
    return found.model_copy(update={**unknown, **dismissed, **shown})


class _Needs:
    """The dependency of a route that admits only callers whose key has a scope. `ApiRoute` has found the caller already."""

    def __init__(self, scope: Scope) -> None:
        self.scope = scope

    async def __call__(
        self, request: Request, documented: Annotated[HTTPAuthorizationCredentials | None, Security(_bearer)]
    ) -> Caller:
        """Return the caller. `documented` lets the OpenAPI document say that the route needs a key."""
        caller: Caller = request.state.caller
        return caller


class ApiRoute(APIRoute):
    """A route of the API: first the caller's key, rate and scope, then the body, which is parsed off the event loop if it is large.

    A call without a good key is counted for its client's address; so is every call of a route that needs none.
    """

    def get_route_handler(self) -> Handler:
        """Wrap the route's handler, so that it is reached only by callers who are admitted."""
        handle, scope = super().get_route_handler(), _needed_scope(self.dependant)
        known = set(_query_names(self.dependant))
        body = None if self.body_field is None else self.body_field.field_info.annotation

        async def handle_admitted(request: Request) -> Response:
            if scope is None:
                count_address(request)
            else:
                request.state.caller = await _admit(request, scope)
            _check_query(request, known)
            return await handle(JsonRequest(request, body))

        return handle_admitted


def _check_query(request: Request, known: set[str]) -> None:
    """Raise InvalidQuery for parameters that are not `known`, or that are given twice: no route takes a list of them."""
    counts = Counter(name for name, _ in request.query_params.multi_items())
    faults = {name: missing_name("parameter", name, known) for name in sorted(counts.keys() - known)}
    faults |= {name: "Give it once." for name in sorted(counts.keys() & known) if counts[name] > 1}
    if faults:
        raise InvalidQuery(faults)


def _query_names(dependant: Dependant) -> Iterator[str]:
    """List the query's parameters of a route, and of all that it depends on."""
    yield from (parameter.alias for parameter in dependant.query_params)
    for inner in dependant.dependencies:
        yield from _query_names(inner)


def _needed_scope(dependant: Dependant) -> Scope | None:
    """Find the scope that a route needs among what it depends on; None for a route that needs no key."""
    own = (inner.call.scope for inner in dependant.dependencies if isinstance(inner.call, _Needs))
    return next(own, None)


async def _admit(request: Request, scope: Scope) -> Caller:
    """Find whose key is in `Authorization: Bearer …`, and count the call. Raises KeyRefused, TooManyCalls, ScopeMissing."""
    credentials = await _bearer(request)
    try:
        if credentials is None:
            raise KeyRefused("send an API key: Authorization: Bearer <key>")
        database: Database = request.app.state.database
        async with database.limiter:
            caller = await run_in_threadpool(_find_caller, database, credentials.credentials)
    except KeyRefused:
        count_address(request)
        raise
    if request.app.state.rate_limit is not None:
        await run_in_threadpool(count_call, request.app.state.rate_limit, caller)
    require(caller, scope)
    return caller


def _find_caller(database: Database, key: str) -> Caller:
    with database.reading() as session:
        return authenticate(session, key)


Writer = Annotated[Caller, Depends(_Needs(Scope.REQUESTS_WRITE))]
Reader = Annotated[Caller, Depends(_Needs(Scope.REQUESTS_READ))]
Promoter = Annotated[Caller, Depends(_Needs(Scope.MODELS_WRITE))]
ReportReader = Annotated[Caller, Depends(_Needs(Scope.REPORTS_READ))]
WeightsReader = Annotated[Caller, Depends(_Needs(Scope.WEIGHTS_READ))]
Admin = Annotated[Caller, Depends(_Needs(Scope.ADMIN))]
