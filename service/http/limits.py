"""Refuses bodies above a size, counted while they stream in, with a problem answer (pure ASGI).

Starlette has such a middleware; it answers in plain text, whatever handlers the application has.
"""

import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass

from limits import RateLimitItem, parse
from limits.errors import StorageError
from limits.storage import RedisStorage
from limits.strategies import SlidingWindowCounterRateLimiter
from redis import RedisError
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ledger.registry.access import Caller
from service.http.problems import BodyTooLarge, TooManyCalls, answer
from service.wakeups import TIMEOUT


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


logger = logging.getLogger(__name__)

PAUSE = 5.0
"""Seconds for which a broker that did not answer is not asked again: calls pass uncounted, and do not wait for it."""


@dataclass(slots=True)
class RateLimit:
    """A limit, where it is counted, and until when (monotonic seconds) the counting rests."""

    item: RateLimitItem
    limiter: SlidingWindowCounterRateLimiter
    resting_until: float = 0.0


def make_rate_limit(text: str | None, *, url: str) -> RateLimit | None:
    """The limit that a text like `100/minute` describes, counted at a redis:// URL; None for none. Nothing is connected yet."""
    if text is None:
        return None
    storage = RedisStorage(
        url, wrap_exceptions=True, socket_connect_timeout=TIMEOUT, socket_timeout=TIMEOUT, key_prefix="expunge-rate"
    )
    return RateLimit(parse(text), SlidingWindowCounterRateLimiter(storage))


def count_call(limit: RateLimit | None, caller: Caller) -> None:
    """Count one call of the caller's key. Raises TooManyCalls; a broker that is away lets every call pass."""
    if limit is None or time.monotonic() < limit.resting_until:
        return
    try:
        if limit.limiter.hit(limit.item, str(caller.key_id)):
            return
        free_at = limit.limiter.get_window_stats(limit.item, str(caller.key_id)).reset_time
    except (StorageError, RedisError) as error:
        limit.resting_until = time.monotonic() + PAUSE
        logger.warning("calls are not counted for %.0f s, the broker does not answer: %s", PAUSE, type(error).__name__)
        return
    raise TooManyCalls(f"This key may make {limit.item} calls.", retry_after=max(1, round(free_at - time.time())))
