"""How many calls a key may make: counted in Redis for all processes together, over a sliding window."""

import logging
import time
from dataclasses import dataclass

from limits import RateLimitItem, parse
from limits.errors import StorageError
from limits.storage import RedisStorage
from limits.strategies import SlidingWindowCounterRateLimiter
from redis import RedisError

from ledger.access import Caller
from service.dispatch import TIMEOUT
from service.errors import TooManyCalls

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
