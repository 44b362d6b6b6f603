"""Limits of calls: how many a key may make, and how many without a good key may come from one address."""

import logging
import time
from collections import Counter
from dataclasses import dataclass, field
from ipaddress import IPv6Address, ip_address, ip_network

from fastapi import Request
from limits import RateLimitItem, parse
from limits.errors import StorageError
from limits.storage import RedisStorage
from limits.strategies import SlidingWindowCounterRateLimiter
from redis import RedisError

from ledger.registry.access import Caller
from service.http.problems import TooManyCalls
from service.wakeups import BROKER_TIMEOUT

logger = logging.getLogger(__name__)

PAUSE = 5.0
"""Seconds without counting after the broker did not answer: until then, calls pass uncounted and do not wait for it."""

MAX_ADDRESSES = 100_000
"""Addresses that are counted at a time; with one more the count starts anew."""


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


@dataclass(slots=True)
class AddressLimit:
    """A limit of calls without a good key, counted in this process: their number by address, and when the window ends."""

    item: RateLimitItem
    calls: Counter[str] = field(default_factory=Counter)
    ends: float = 0.0  # monotonic seconds


def make_address_limit(text: str | None) -> AddressLimit | None:
    """Make the limit that a text like `600/minute` describes; None for no limit."""
    return None if text is None else AddressLimit(parse(text))


def count_address(request: Request) -> None:
    """Count a call without a good key for its client's address. Raises TooManyCalls above the limit.

    The address is that of the connection. Behind a proxy that Uvicorn trusts (FORWARDED_ALLOW_IPS) it is the one that the
    proxy reports. A call with a good key is never counted, so nobody can lock out others who share an address.
    """
    limit: AddressLimit | None = request.app.state.address_limit
    if limit is None or request.client is None:
        return
    moment, address = time.monotonic(), _network(request.client.host)
    if moment >= limit.ends or len(limit.calls) >= MAX_ADDRESSES:
        limit.calls.clear()
        limit.ends = moment + limit.item.get_expiry()
    limit.calls[address] += 1
    if limit.calls[address] > limit.item.amount:
        raise TooManyCalls(
            f"An address may make {limit.item} calls without a good API key.",
            retry_after=max(1, round(limit.ends - moment)),
        )


def _network(host: str) -> str:
    """Return an address as it is counted: IPv6 by its /64, which is what one customer has, but IPv4 by itself.

    A socket for both kinds gives an IPv4 address within an IPv6 one (`::ffff:192.0.2.1`).
    """
    try:
        ip = ip_address(host.partition("%")[0])
    except ValueError:
        return host
    if not isinstance(ip, IPv6Address):
        return host
    return str(ip.ipv4_mapped or ip_network((ip, 64), strict=False))
