"""Refuses bodies above a size, counted while they stream in, with a problem answer (pure ASGI).

Starlette has such a middleware; it answers in plain text, whatever handlers the application has.
"""

from collections.abc import Mapping

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.errors import BodyTooLarge
from service.problems import answer


class BodyLimit:
    """Lets at most `limit` bytes of a request's body through; for the paths in `others`, at most what they say."""

    def __init__(self, app: ASGIApp, *, limit: int, others: Mapping[str, int]) -> None:
        self.app = app
        self.limit = limit
        self.others = others

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer 413 at once for a declared length above the limit; otherwise stop reading where the limit is crossed."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        limit = self.others.get(scope["path"], self.limit)
        refusal = BodyTooLarge(f"The body is larger than {limit} bytes; split the sample IDs, or upload a manifest.")
        declared = Headers(scope=scope).get("content-length", "")
        if declared.isdecimal() and int(declared) > limit:
            await answer(refusal)(scope, receive, send)
            return

        seen = 0

        async def receive_within_limit() -> Message:
            nonlocal seen
            message = await receive()
            seen += len(message.get("body", b""))
            if seen > limit:
                raise refusal
            return message

        await self.app(scope, receive_within_limit, send)
