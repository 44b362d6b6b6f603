"""Who looks at a page, and whether they may."""

from typing import Annotated
from urllib.parse import parse_qs, urlsplit

from fastapi import Depends, Request

from ledger.access import Caller, Scope, caller_of
from ledger.errors import KeyRefused
from service.access import require
from service.console.cookies import signed_in
from service.errors import CrossSite
from service.rate_limit import count_call
from service.session import Ledger


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
