"""Sessions of the console: a signed cookie that names a session in the ledger. It never holds the API key itself.

Each page reads the session and its key from the ledger. So signing out ends the session, also in a copy of the cookie, and revoking
the key ends all of its sessions at once.
"""

import hashlib
from datetime import timedelta
from typing import Annotated
from urllib.parse import parse_qs, urlsplit
from uuid import UUID

from fastapi import Depends, Request
from itsdangerous import BadData, URLSafeTimedSerializer
from starlette.responses import Response

from ledger.errors import KeyRefused
from ledger.registry.access import (
    Caller,
    Scope,
    begin_console_session,
    caller_of_console_session,
    end_console_session,
)
from service.http.authentication import require
from service.http.limits import count_call
from service.http.problems import CrossSite
from service.http.sessions import Ledger

COOKIE = "expunge_session"

MAX_FORM_BYTES = 4096
"""Bytes of a submitted form, which holds one key."""

MAX_SESSION_SECONDS = 8 * 3600
"""After this one has to sign in again."""


def sign_in(response: Response, request: Request, ledger: Ledger, caller: Caller) -> None:
    """Store in the browser that it has shown this key. Scripts cannot read the cookie, and no other site can have it sent."""
    session_id = begin_console_session(ledger, caller.key_id, lasts=timedelta(seconds=MAX_SESSION_SECONDS))
    response.set_cookie(
        COOKIE,
        _serializer(request).dumps(str(session_id)),
        max_age=MAX_SESSION_SECONDS,
        path="/",
        httponly=True,
        samesite="strict",
        secure=request.url.scheme == "https" or str(request.app.state.settings.public_url or "").startswith("https:"),
    )


def sign_out(response: Response, request: Request, ledger: Ledger) -> None:
    """End the session in the ledger, and delete the cookie."""
    session_id = signed_in(request)
    if session_id is not None:
        end_console_session(ledger, session_id)
    delete_cookie(response)


def delete_cookie(response: Response) -> None:
    """Delete the cookie in the browser."""
    response.delete_cookie(COOKIE, path="/", httponly=True, samesite="strict")


def signed_in(request: Request) -> UUID | None:
    """Return the ID of the session; None without a cookie of this service, or if it is too old."""
    try:
        return UUID(_serializer(request).loads(request.cookies.get(COOKIE, ""), max_age=MAX_SESSION_SECONDS))
    except BadData:
        return None


def _serializer(request: Request) -> URLSafeTimedSerializer:
    """Sign by HMAC-SHA256 under a key derived from the one secret that every API process has."""
    return URLSafeTimedSerializer(
        request.app.state.settings.sample_key_bytes,
        salt="console session",
        signer_kwargs={"key_derivation": "hmac", "digest_method": hashlib.sha256},
    )


def _visitor(request: Request, ledger: Ledger) -> Caller:
    """Find the caller that the session stands for. Raises KeyRefused without a session, TooManyCalls above the key's rate."""
    session_id = signed_in(request)
    if session_id is None:
        raise KeyRefused("sign in first")
    caller = caller_of_console_session(ledger, session_id)
    count_call(request.app.state.rate_limit, caller)
    return caller


Visitor = Annotated[Caller, Depends(_visitor)]


def _reads_requests(visitor: Visitor) -> Caller:
    require(visitor, Scope.REQUESTS_READ)
    return visitor


def _reads_reports(visitor: Visitor) -> Caller:
    require(visitor, Scope.REPORTS_READ)
    return visitor


Reader = Annotated[Caller, Depends(_reads_requests)]
ReportReader = Annotated[Caller, Depends(_reads_reports)]


async def posted_key(request: Request) -> str:
    """Read the API key from a submitted form. By hand: it is one field, and FastAPI's forms need a further package."""
    fields = parse_qs((await request.body()).decode("utf-8", "replace"))
    return fields.get("key", [""])[0].strip()


def require_same_site(request: Request) -> None:
    """Raise CrossSite for a form that another site has sent. Signing in needs this, because it needs no cookie yet.

    The own site is the call's host, and that of EXPUNGE_PUBLIC_URL: a proxy may send its own name for the service as Host.
    """
    origin, site = request.headers.get("origin"), request.headers.get("sec-fetch-site", "same-origin")
    public = request.app.state.settings.public_url
    own = {request.headers.get("host"), urlsplit(public).netloc if public else None}
    foreign = origin is not None and urlsplit(origin).netloc not in own
    if foreign or site not in {"same-origin", "none"}:
        raise CrossSite("the form was sent from another site")
