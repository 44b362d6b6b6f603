"""What surrounds every call, whichever route or handler serves it: security headers, and one log line under an ID (pure ASGI)."""

import logging
import time
from http import HTTPMethod
from uuid import UUID, uuid4

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from structlog.contextvars import bound_contextvars

logger = logging.getLogger(__name__)

SECURITY_HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "Strict-Transport-Security": "max-age=31536000; includeSubDomains",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}
"""Defaults from the OWASP REST Security Cheat Sheet; a route may set its own value for any of them."""

CALL_ID_HEADER = "X-Request-ID"

MONITORING = ("/livez", "/readyz", "/metrics")
"""Routes that monitoring calls all the time: they are not logged, not counted and not traced."""


class SecurityHeaders:
    """Adds `SECURITY_HEADERS` to responses that do not set them themselves."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve the call, and add the headers when the response starts."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in SECURITY_HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        await self.app(scope, receive, send_with_headers)


class AccessLog:
    """Gives every call an ID, returns it as `X-Request-ID`, and logs the call: method, route, status, seconds, IDs in the path.

    Paths, queries and bodies are not logged as they were sent, nor is a method that HTTP does not have. An unexpected error is
    logged here too, under the ID of the call, and `refusal` is the response to it: Starlette's own handler stands outside of this.
    """

    def __init__(self, app: ASGIApp, *, refusal: ASGIApp) -> None:
        self.app = app
        self.refusal = refusal

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve the call with its ID on every line that is logged meanwhile."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        call_id, started, status = _callers_id(scope) or uuid4(), time.monotonic(), 500
        sent_at, began = None, False

        async def send_with_id(message: Message) -> None:
            nonlocal status, sent_at, began
            if message["type"] == "http.response.start":
                status, began = message["status"], True
                MutableHeaders(scope=message)[CALL_ID_HEADER] = str(call_id)
            await send(message)
            sent_at = time.monotonic()  # The caller does not wait for what runs after the last byte.

        with bound_contextvars(call_id=str(call_id)):
            try:
                await self.app(scope, receive, send_with_id)
            except Exception as error:
                logger.error("unexpected error in %s %s", known_method(scope), _route(scope), exc_info=error)
                if not began:
                    await self.refusal(scope, receive, send_with_id)
            finally:
                _log(scope, status=status, seconds=(sent_at or time.monotonic()) - started)


def known_method(scope: Scope) -> str:
    """Return the call's method, or `other` for a word that is no method of HTTP: a client may send any."""
    method: str = scope["method"]
    return method if method in HTTPMethod.__members__ else "other"


def _route(scope: Scope) -> str:
    return getattr(scope.get("route"), "path", "no route")


def _callers_id(scope: Scope) -> UUID | None:
    """Return the ID that the caller sent, if it is a UUID. Any other text could be anything, even a sample's ID."""
    try:
        return UUID(Headers(scope=scope).get(CALL_ID_HEADER, ""))
    except ValueError:
        return None


def _log(scope: Scope, *, status: int, seconds: float) -> None:
    route = _route(scope)
    if route in MONITORING:
        return
    ids = {name: str(value) for name, value in scope.get("path_params", {}).items() if isinstance(value, UUID)}
    level = logging.ERROR if status >= 500 else logging.INFO
    with bound_contextvars(**ids):
        logger.log(level, "%s %s %d in %.3f s", known_method(scope), route, status, seconds)
