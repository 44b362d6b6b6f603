"""Limits for callers: the bytes of a body, and the calls that a key may make."""

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
from service.http.problems import BodyTooLarge, TooManyCalls, respond
from service.wakeups import BROKER_TIMEOUT

logger = logging.getLogger(__name__)

PAUSE = 5.0
"""Seconds without counting after the broker did not answer: until then, calls pass uncounted and do not wait for it."""


class BodyLimit:
    """Refuses bodies above `limit` bytes, or above what `by_path` says for the path, while they stream in (pure ASGI).

    Starlette's own middleware responds in plain text, whatever handlers the application has.
    """

    def __init__(self, app: ASGIApp, *, limit: int, by_path: Mapping[str, int]) -> None:
        self.app = app
        self.limit = limit
        self.by_path = by_path

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Respond with 413 to a declared length above the limit; otherwise stop reading at the limit."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        limit = self.by_path.get(scope["path"], self.limit)
        refusal = BodyTooLarge(
            f"The body is larger than {limit} bytes; split the sample IDs, or upload them with POST /uploads."
        )
        declared = Headers(scope=scope).get("content-length", "")
        if declared.isdecimal() and int(declared) > limit:
            await respond(refusal)(scope, receive, send)
            return

        received = 0

        async def receive_within_limit() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > limit:
                raise refusal
            return message

        await self.app(scope, receive_within_limit, send)


@dataclass(slots=True)
class RateLimit:
    """A limit, where calls are counted, and until when (monotonic seconds) counting is paused."""

    item: RateLimitItem
    limiter: SlidingWindowCounterRateLimiter
    paused_until: float = 0.0


def make_rate_limit(text: str | None, *, url: str) -> RateLimit | None:
    """Make the limit that a text like `100/minute` describes, counted at a redis:// URL; None for no limit. Does not connect."""
    if text is None:
        return None
    storage = RedisStorage(
        url,
        wrap_exceptions=True,
        socket_connect_timeout=BROKER_TIMEOUT,
        socket_timeout=BROKER_TIMEOUT,
        key_prefix="expunge-rate",
    )
    return RateLimit(parse(text), SlidingWindowCounterRateLimiter(storage))


def count_call(limit: RateLimit | None, caller: Caller) -> None:
    """Count a call of the caller's key. Raises TooManyCalls above the limit; lets every call pass while the broker is away."""
    if limit is None or time.monotonic() < limit.paused_until:
        return
    try:
        if limit.limiter.hit(limit.item, str(caller.key_id)):
            return
        free_at = limit.limiter.get_window_stats(limit.item, str(caller.key_id)).reset_time
    except (StorageError, RedisError) as error:
        limit.paused_until = time.monotonic() + PAUSE
        logger.warning("calls are not counted for %.0f s: the broker does not answer: %s", PAUSE, type(error).__name__)
        return
    raise TooManyCalls(f"This key may make {limit.item} calls.", retry_after=max(1, round(free_at - time.time())))
