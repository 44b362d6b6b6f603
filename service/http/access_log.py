"""One log line a call, and an id that finds it again: `X-Request-ID` (pure ASGI)."""

import logging
import time
from uuid import UUID, uuid4

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from telemetry.logs import about

logger = logging.getLogger(__name__)

HEADER = "X-Request-ID"
SILENT = frozenset({"/livez", "/readyz", "/metrics"})
"""Routes that are asked again and again."""


class CallLog:
    """Gives every call an id, answers with it, and logs the call by its route: method, status, seconds, and the ids in its path."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the call on under its id."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        call_id, begun, status = _given(scope) or uuid4(), time.monotonic(), 500
        answered = None

        async def send_with_id(message: Message) -> None:
            nonlocal status, answered
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)[HEADER] = str(call_id)
            await send(message)
            answered = time.monotonic()  # What runs after the last byte is not what the caller waited for.

        with about(call_id=call_id):
            try:
                await self.app(scope, receive, send_with_id)
            finally:
                _log(scope, status=status, seconds=(answered or time.monotonic()) - begun)


def _given(scope: Scope) -> UUID | None:
    """The caller's own id, where it is a UUID: anything else could be anything, a sample's ID too."""
    try:
        return UUID(Headers(scope=scope).get(HEADER, ""))
    except ValueError:
        return None


def _log(scope: Scope, *, status: int, seconds: float) -> None:
    route = getattr(scope.get("route"), "path", "no route")
    if route in SILENT:
        return
    ids = {name: str(value) for name, value in scope.get("path_params", {}).items() if isinstance(value, UUID)}
    level = logging.ERROR if status >= 500 else logging.INFO
    logger.log(level, "%s %s %d in %.3f s", scope["method"], route, status, seconds, extra={"ids": ids})
