"""Pages from templates: states, times and shares as text, and refusals as pages. A browser may load nothing from elsewhere."""

from collections.abc import Callable, Coroutine, Mapping
from datetime import UTC, datetime, timedelta
from functools import cache, partial
from importlib.resources import files
from typing import Any

from fastapi import Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import RedirectResponse
from fastapi.routing import APIRoute
from jinja2 import Environment, PackageLoader, StrictUndefined
from starlette.datastructures import Headers
from starlette.responses import HTMLResponse
from starlette.routing import Match
from starlette.types import Scope as CallScope

from ledger.errors import KeyRefused, Refused
from ledger.registry.access import Caller, Scope
from ledger.states import STAGES, TERMINAL
from report.formatting import plural
from service.console.sign_in import COOKIE, delete_cookie
from service.http.limits import count_address
from service.http.problems import ServiceError, problem_type, refusal_headers
from verifier.method_names import short_method

POLICY = (
    "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; img-src 'self' data:; form-action 'self'; "
    "base-uri 'none'; frame-ancestors 'none'"
)
"""Everything comes from this host, nothing is inline, and no page may frame this one."""

NAVIGATION = (
    ("/", "Requests", Scope.REQUESTS_READ),
    ("/console/jobs", "Jobs", Scope.REQUESTS_READ),
    ("/console/models", "Models", Scope.REQUESTS_READ),
    ("/console/reports", "Reports", Scope.REPORTS_READ),
)
"""Path, title and needed scope of each entry."""

TONES = {
    "completed": "good",
    "verified": "good",
    "failed": "bad",
    "inconclusive": "unsure",
    "cancelled": "quiet",
    "rejected": "quiet",
}
"""The colour of a state or a verdict; every other state is open."""

PHASES = {
    "waiting": "waits in the queue",
    "load": "loading",
    "unlearn": "unlearning",
    "audit_membership": "auditing: membership attacks",
    "audit_relearn": "auditing: relearning",
    "report": "writing the report",
    "publish": "publishing",
}
"""What a job does in each phase."""

CLOSINGS = {
    "window": "its batching window ends",
    "deadline": "a later start would miss the earliest deadline",
    "expedite": "a request is expedited",
    "method": "a later request asked for another method",
}
"""Why a job closes, and takes no more requests, when it does."""


def page(name: str, *, visitor: Caller | None, here: str, status: int = 200, **content: object) -> HTMLResponse:
    """Render a template as a page for a visitor; `here` is the path of the navigation's entry that it belongs to."""
    entries = [] if visitor is None else [(path, title) for path, title, scope in NAVIGATION if visitor.may(scope)]
    template = _environment().get_template(f"{name}.html.jinja")
    text = template.render(visitor=visitor, navigation=entries, here=here, **content)
    headers = {
        "Content-Security-Policy": POLICY,
        "Cache-Control": "no-store",
        "Referrer-Policy": "same-origin",  # under no-referrer, Chromium sends forms with `Origin: null`
    }
    return HTMLResponse(text, status, headers)


@cache
def style() -> str:
    """Read the style sheet: the report's colours, then the console's own rules."""
    palette = files("report").joinpath("templates", "palette.css").read_text(encoding="utf-8")
    return palette + files("service.console").joinpath("static", "console.css").read_text(encoding="utf-8")


@cache
def script() -> str:
    """Read the one script, which refreshes a page that is open."""
    return files("service.console").joinpath("static", "live.js").read_text(encoding="utf-8")


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("service.console"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "tone": tone,
        "phase": phase,
        "closing": closing,
        "plain": plain,
        "moment": moment,
        "time_left": time_left,
        "duration": duration,
        "percent": percent,
        "method": short_method,
        "samples": partial(plural, noun="sample"),
        "earlier_events": partial(plural, noun="earlier event"),
        "by_stage": by_stage,
    }
    return environment


Handler = Callable[[Request], Coroutine[Any, Any, Response]]


class PageRoute(APIRoute):
    """A route whose refusals are pages. Visitors who are not signed in are redirected to the sign-in page."""

    def get_route_handler(self) -> Handler:
        """Wrap the route's handler, to turn what it raises into pages."""
        handle = super().get_route_handler()

        async def handle_page(request: Request) -> Response:
            try:
                if request.method == "POST":  # a form is sent by whoever likes to: no key is checked before it is read
                    count_address(request)
                return await handle(request)
            except KeyRefused:
                redirect = RedirectResponse("/console/sign-in", 303)
                # A link on another site comes without the cookie, and must not sign the visitor out.
                if COOKIE in request.cookies:
                    delete_cookie(redirect)
                return redirect
            except RequestValidationError:
                return _refusal(422, "There is no such page", "A part of the address is not valid.")
            except (Refused, ServiceError) as error:
                kind = problem_type(error)
                response = _refusal(kind.status, kind.title, str(error))
                response.headers.update(refusal_headers(error))
                return response

        return handle_page


class NavigationRoute(PageRoute):
    """A page at an address of the API: for browsers, which send no key. Calls with a key go to the API's own route."""

    def matches(self, scope: CallScope) -> tuple[Match, CallScope]:
        """Match a browser's navigation, or a call with the console's cookie, unless it has a key."""
        headers = Headers(scope=scope)
        browser = headers.get("sec-fetch-mode") == "navigate" or f"{COOKIE}=" in headers.get("cookie", "")
        if scope["type"] != "http" or not browser or "authorization" in headers:
            return Match.NONE, {}
        return super().matches(scope)


def _refusal(status: int, title: str, detail: str) -> Response:
    return page("refused", visitor=None, here="", status=status, title=title, detail=detail)


def is_ended(state: str | None) -> bool:
    """Return whether the state is final."""
    return state in TERMINAL


def by_stage(timings: Mapping[str, float]) -> list[tuple[str, float]]:
    """List an attempt's seconds in the order of the stages, then those that are part of one. The database orders by length."""
    return sorted(timings.items(), key=lambda one: STAGES.index(one[0]) if one[0] in STAGES else len(STAGES))


def tone(state: str | None) -> str:
    """Return the colour of a state or a verdict."""
    return TONES.get(state or "", "open")


def phase(name: str) -> str:
    """Say what a job does in a phase."""
    return PHASES.get(name) or plain(name)


def closing(reason: str) -> str:
    """Say why a job closes when it does."""
    return CLOSINGS.get(reason) or plain(reason)


def plain(name: str) -> str:
    """Write a code as words: `audit_membership` as "audit membership"."""
    return name.replace("_", " ")


def moment(at: datetime | None) -> str:
    """Write a time to the minute, in UTC."""
    return "–" if at is None else f"{at.astimezone(UTC):%Y-%m-%d %H:%M} UTC"


def time_left(due_at: datetime | None, now: datetime) -> str:
    """Say how long it is until a deadline, or since."""
    if due_at is None:
        return "–"
    left = due_at - now
    text = duration(abs(left).total_seconds())
    return f"{text} left" if left >= timedelta() else f"{text} overdue"


def duration(seconds: float) -> str:
    """Write a duration in its one largest unit."""
    whole = round(seconds)
    for unit, size in (("day", 86400), ("hour", 3600), ("minute", 60), ("second", 1)):
        if whole >= size:
            count = whole // size
            return f"{count} {unit}{'' if count == 1 else 's'}"
    return "0 seconds"


def percent(share: float) -> str:
    """Write a share from 0 to 1 as a percentage."""
    return f"{100 * share:.0f}\N{NO-BREAK SPACE}%"
