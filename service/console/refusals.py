"""Refusals as pages: what the API answers as a problem document, a browser gets as something to read."""

from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import RedirectResponse
from fastapi.routing import APIRoute

from ledger.errors import KeyRefused, Refused
from service.console.cookies import sign_out
from service.console.rendering import page
from service.errors import ServiceError
from service.problems import PROBLEMS

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
