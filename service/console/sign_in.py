"""Who is signed in: a cookie that names an API key and when that was, under a MAC. It never holds the key itself.

The key is looked up again with each page, so that revoking it ends every session at once.
"""

import base64
import binascii
import hmac
import json
import time
from typing import Annotated
from urllib.parse import parse_qs, urlsplit
from uuid import UUID

from fastapi import Depends, Request
from starlette.responses import Response

from ledger.errors import KeyRefused
from ledger.registry.access import Caller, Scope, caller_of
from service.http.authentication import require
from service.http.limits import count_call
from service.http.problems import CrossSite
from service.http.sessions import Ledger

COOKIE = "expunge_session"
LONGEST = 8 * 3600
"""Seconds until one has to sign in again."""


def sign_in(response: Response, request: Request, key_id: UUID) -> None:
    """Let the browser keep that it has shown this key. Scripts cannot read the cookie, and no other site can have it sent."""
    content = json.dumps({"key": str(key_id), "at": int(time.time())}).encode()
    response.set_cookie(
        COOKIE,
        f"{_text(content)}.{_text(_mac(request, content))}",
        max_age=LONGEST,
        path="/",
        httponly=True,
        samesite="strict",
        secure=request.url.scheme == "https" or str(request.app.state.settings.public_url or "").startswith("https:"),
    )


def sign_out(response: Response) -> None:
    """Let the browser forget it."""
    response.delete_cookie(COOKIE, path="/", httponly=True, samesite="strict")


def signed_in(request: Request) -> UUID | None:
    """The id of the key that was shown; None for nobody, for too long ago, or for a cookie that this service did not make."""
    content, _, mac = request.cookies.get(COOKIE, "").partition(".")
    try:
        raw = _bytes(content)
        if not hmac.compare_digest(_bytes(mac), _mac(request, raw)):
            return None
        said = json.loads(raw)
        return UUID(said["key"]) if 0 <= time.time() - said["at"] <= LONGEST else None
    except (ValueError, KeyError, TypeError, binascii.Error):
        return None


def _mac(request: Request, content: bytes) -> bytes:
    """Under a key derived from the one secret that every API process has."""
    key = hmac.digest(request.app.state.settings.sample_key_bytes, b"console session", "sha256")
    return hmac.digest(key, content, "sha256")


def _text(content: bytes) -> str:
    return base64.urlsafe_b64encode(content).decode()


def _bytes(text: str) -> bytes:
    return base64.b64decode(text, altchars=b"-_", validate=True)


def _visitor(request: Request, ledger: Ledger) -> Caller:
    """The caller that the session stands for. Raises KeyRefused where there is none, TooManyCalls over the key's rate."""
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
    """The API key in a form that was sent. Read by hand: it is one field, and FastAPI's forms need a further package."""
    fields = parse_qs((await request.body()).decode("utf-8", "replace"))
    return fields.get("key", [""])[0].strip()


def same_site(request: Request) -> None:
    """Refuse a form that another site has sent here. The cookie is SameSite=Strict; this is for signing in, which needs none.

    Raises CrossSite.
    """
    origin, site = request.headers.get("origin"), request.headers.get("sec-fetch-site", "same-origin")
    foreign = origin is not None and urlsplit(origin).netloc != request.headers.get("host")
    if foreign or site not in {"same-origin", "none"}:
        raise CrossSite("the form was sent from another site")
