"""Pages from templates, with headers that let a browser load nothing from elsewhere; refusals as pages too."""

from collections.abc import Callable, Coroutine
from functools import cache
from importlib.resources import files
from typing import Any

from fastapi import Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import RedirectResponse
from fastapi.routing import APIRoute
from jinja2 import Environment, PackageLoader, StrictUndefined
from starlette.responses import HTMLResponse

from ledger.errors import KeyRefused, Refused
from ledger.registry.access import Caller, Scope
from service.console import formatting
from service.console.sign_in import delete_cookie
from service.http.limits import count_address
from service.http.problems import ServiceError, problem_type, refusal_headers

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
        "tone": formatting.tone,
        "phase": formatting.phase,
        "closing": formatting.closing,
        "plain": formatting.plain,
        "moment": formatting.moment,
        "time_left": formatting.time_left,
        "duration": formatting.duration,
        "percent": formatting.percent,
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


def _refusal(status: int, title: str, detail: str) -> Response:
    return page("refused", visitor=None, here="", status=status, title=title, detail=detail)
