"""From a template and its content to a page, with the headers that keep it to itself."""

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
from service.console import formatting as words
from service.console.sign_in import sign_out
from service.http.problems import PROBLEMS, ServiceError

POLICY = (
    "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; img-src 'self' data:; form-action 'self'; "
    "base-uri 'none'; frame-ancestors 'none'"
)
"""Everything comes from here, nothing is inline, nobody may frame it."""

PAGES = (
    ("/", "Requests", Scope.REQUESTS_READ),
    ("/console/jobs", "Jobs", Scope.REQUESTS_READ),
    ("/console/models", "Models", Scope.REQUESTS_READ),
    ("/console/reports", "Reports", Scope.REPORTS_READ),
)
"""The navigation: where, what it is called, and the scope it needs."""


def page(name: str, *, visitor: Caller | None, here: str, status: int = 200, **content: object) -> HTMLResponse:
    """A page for a visitor; `here` is the navigation's entry that it belongs to."""
    shown = [] if visitor is None else [(path, title) for path, title, scope in PAGES if visitor.may(scope)]
    text = _environment().get_template(f"{name}.html.jinja").render(visitor=visitor, pages=shown, here=here, **content)
    headers = {
        "Content-Security-Policy": POLICY,
        "Cache-Control": "no-store",
        "Referrer-Policy": "same-origin",  # with no-referrer, Chromium sends its own forms with the origin null
    }
    return HTMLResponse(text, status, headers)


@cache
def style() -> str:
    """The style sheet: the report's colours, and the console's own rules."""
    palette = files("report").joinpath("templates", "palette.css").read_text(encoding="utf-8")
    return palette + files("service.console").joinpath("static", "console.css").read_text(encoding="utf-8")


@cache
def script() -> str:
    """The one script: it brings a page that is open up to date."""
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
        "tone": words.tone,
        "moment": words.moment,
        "left": words.left,
        "lasting": words.lasting,
        "doing": words.doing,
        "why": words.why,
        "percent": words.percent,
        "plain": words.plain,
    }
    return environment


Handler = Callable[[Request], Coroutine[Any, Any, Response]]


class Pages(APIRoute):
    """A route whose refusals are pages. Who is not signed in, or not any more, is asked to sign in."""

    def get_route_handler(self) -> Handler:
        """The route's handler, and around it the pages for what it refuses."""
        handle = super().get_route_handler()

        async def answer(request: Request) -> Response:
            try:
                return await handle(request)
            except KeyRefused:
                response = RedirectResponse("/console/sign-in", 303)
                sign_out(response)
                return response
            except RequestValidationError:
                return refused(422, "That is not a page", "The address has a part that does not belong there.")
            except (Refused, ServiceError) as error:
                kind = next(PROBLEMS[cls] for cls in type(error).__mro__ if cls in PROBLEMS)
                return refused(kind.status, kind.title, str(error))

        return answer


def refused(status: int, title: str, detail: str) -> Response:
    """A page that says what was refused, and why."""
    return page("refused", visitor=None, here="", status=status, title=title, detail=detail)
