"""Sessions of the console: a signed cookie that names an API key and when it was shown. It never holds the key itself.

Each page reads the key from the ledger, so revoking it ends all of its sessions at once.
"""

import hashlib
from typing import Annotated
from urllib.parse import parse_qs, urlsplit
from uuid import UUID

from fastapi import Depends, Request
from itsdangerous import BadData, URLSafeTimedSerializer
from starlette.responses import Response

from ledger.errors import KeyRefused
from ledger.registry.access import Caller, Scope, caller_of
from service.http.authentication import require
from service.http.limits import count_call
from service.http.problems import CrossSite
from service.http.sessions import Ledger

COOKIE = "expunge_session"

MAX_FORM_BYTES = 4096
"""Bytes of a submitted form, which holds one key."""

MAX_SESSION_SECONDS = 8 * 3600
"""After this one has to sign in again."""


def sign_in(response: Response, request: Request, key_id: UUID) -> None:
    """Store in the browser that it has shown this key. Scripts cannot read the cookie, and no other site can have it sent."""
    response.set_cookie(
        COOKIE,
        _serializer(request).dumps(str(key_id)),
        max_age=MAX_SESSION_SECONDS,
        path="/",
        httponly=True,
        samesite="strict",
        secure=request.url.scheme == "https" or str(request.app.state.settings.public_url or "").startswith("https:"),
    )


def sign_out(response: Response) -> None:
    """Delete the cookie."""
    response.delete_cookie(COOKIE, path="/", httponly=True, samesite="strict")


def signed_in(request: Request) -> UUID | None:
    """Return the ID of the key that was shown; None without a cookie of this service, or if it is too old."""
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
    key_id = signed_in(request)
    if key_id is None:
        raise KeyRefused("sign in first")
    caller = caller_of(ledger, key_id)
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
    """Raise CrossSite for a form that another site has sent. Signing in needs this, because it needs no cookie yet."""
    origin, site = request.headers.get("origin"), request.headers.get("sec-fetch-site", "same-origin")
    foreign = origin is not None and urlsplit(origin).netloc != request.headers.get("host")
    if foreign or site not in {"same-origin", "none"}:
        raise CrossSite("the form was sent from another site")
