"""Authentication and scopes: a caller is a parameter of its route, as `Reader`, `Writer`, `Promoter`, `ReportReader` or `Admin`."""

from collections.abc import Awaitable, Callable
from typing import Annotated

from fastapi import Depends, Request, Security
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from ledger.errors import KeyRefused
from ledger.registry.access import Caller, Scope, authenticate
from service.http.limits import count_call
from service.http.problems import ScopeMissing
from service.http.sessions import Ledger

_bearer = HTTPBearer(
    auto_error=False,
    bearerFormat="expunge_<prefix>_<secret>",
    scheme_name="API key",
    description="An API key, from the operator; it belongs to one tenant and has scopes.",
)


def require(caller: Caller, scope: Scope) -> None:
    """Raise ScopeMissing if the caller's key lacks the scope."""
    if not caller.may(scope):
        raise ScopeMissing(f"this call needs the scope {scope}; the key has {', '.join(sorted(caller.scopes))}")


def _caller(
    request: Request, ledger: Ledger, credentials: Annotated[HTTPAuthorizationCredentials | None, Security(_bearer)]
) -> Caller:
    """Find whose key is in `Authorization: Bearer …`, and count the call. Raises KeyRefused, TooManyCalls."""
    if credentials is None:
        raise KeyRefused("send an API key: Authorization: Bearer <key>")
    caller = authenticate(ledger, credentials.credentials)
    count_call(request.app.state.rate_limit, caller)
    return caller


def _needs(scope: Scope) -> Callable[[Caller], Awaitable[Caller]]:
    """Make the dependency that admits only callers whose key has the scope."""

    async def check(caller: Annotated[Caller, Depends(_caller)]) -> Caller:
        require(caller, scope)
        return caller

    return check


Writer = Annotated[Caller, Depends(_needs(Scope.REQUESTS_WRITE))]
Reader = Annotated[Caller, Depends(_needs(Scope.REQUESTS_READ))]
Promoter = Annotated[Caller, Depends(_needs(Scope.MODELS_WRITE))]
ReportReader = Annotated[Caller, Depends(_needs(Scope.REPORTS_READ))]
Admin = Annotated[Caller, Depends(_needs(Scope.ADMIN))]
