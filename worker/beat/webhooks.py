"""Connections to addresses that callers name: only where the operator lets them lead.

A name is resolved once, what it resolves to is checked, and the connection goes to exactly that address. So a name that is answered
with a public address when it is checked and with a private one when it is used gains nothing, and a redirect is never followed.
"""

import logging
import socket
import ssl
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial
from http.client import HTTPConnection, HTTPException, HTTPResponse
from importlib.metadata import version
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Any
from urllib.parse import SplitResult, urlsplit

from sqlalchemy.orm import Session, sessionmaker
from standardwebhooks.webhooks import Webhook

from ledger.events.deliveries import Batch, Delivery, Try, record_try, release_batch, take_batch
from ledger.events.webhooks import webhook_secret
from ledger.states import TryOutcome
from worker.errors import AddressForbidden, Unreachable
from worker.settings import Network

NAT64 = ip_network("64:ff9b::/96")


def post(url: str, body: bytes, headers: dict[str, str], *, allowed: Sequence[Network], timeout: float) -> int:
    """POST a body and give the answer's status; `timeout` seconds are for everything together.

    Plain http, and addresses that are not public, only within the networks `allowed`. Raises AddressForbidden, Unreachable.
    """
    parts, deadline = urlsplit(url), time.monotonic() + timeout
    connection = HTTPConnection(parts.hostname or "", timeout=timeout)
    # Time-outs of sockets are for each operation: an answer that trickles would never run into one.
    watchdog = threading.Timer(timeout, lambda: _break(connection))
    watchdog.start()
    try:
        connection.sock = connect(parts, allowed=allowed, deadline=deadline)
        # Raises where the watchdog may have come already, while there was no socket to break.
        connection.sock.settimeout(_left(deadline))
        target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        connection.request("POST", target, body, {"Host": parts.netloc, **headers})
        answer: HTTPResponse = connection.getresponse()
        return answer.status
    except (OSError, HTTPException, ValueError) as error:
        raise Unreachable(type(error).__name__) from error
    finally:
        watchdog.cancel()
        connection.close()


def connect(parts: SplitResult, *, allowed: Sequence[Network], deadline: float) -> socket.socket:
    """Open a socket to an address of the URL's host that may be reached, until `deadline` by the monotonic clock.

    Raises AddressForbidden, OSError, ValueError.
    """
    secure = parts.scheme == "https"
    port = parts.port or (443 if secure else 80)
    found = socket.getaddrinfo(parts.hostname, port, type=socket.SOCK_STREAM)
    open_to = [(family, address) for family, _, _, _, address in found if may_reach(address[0], allowed, secure=secure)]
    if not open_to:
        raise AddressForbidden("the host's addresses are not public, and not among EXPUNGE_WEBHOOK_NETWORKS")
    for family, address in open_to[:-1]:
        with suppress(OSError):  # the next one may answer: where there is no route to IPv6, say
            return _open(family, address, parts, deadline=time.monotonic() + _left(deadline) / 2)
    return _open(*open_to[-1], parts, deadline=deadline)


def _open(family: int, address: Any, parts: SplitResult, *, deadline: float) -> socket.socket:
    plain = socket.socket(family, socket.SOCK_STREAM)
    try:
        plain.settimeout(_left(deadline))
        plain.connect(address)
        if parts.scheme == "http":
            return plain
        plain.settimeout(_left(deadline))
        return ssl.create_default_context().wrap_socket(plain, server_hostname=parts.hostname)
    except BaseException:
        plain.close()
        raise


def _left(deadline: float) -> float:
    """Seconds until then. Raises TimeoutError where there are none."""
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError("the whole try took too long")
    return left


def may_reach(address: str | int, allowed: Sequence[Network], *, secure: bool) -> bool:
    """Whether a connection may lead to an address: one of the allowed networks; or, with TLS, one that is public."""
    ip = ip_address(str(address).partition("%")[0])
    meant = [ip, *_within(ip)]
    if any(each in network for each in meant for network in allowed if each.version == network.version):
        return True
    return secure and all(each.is_global and not each.is_multicast for each in meant)


def _within(ip: IPv4Address | IPv6Address) -> list[IPv4Address]:
    """The IPv4 address that a gateway would take an IPv6 address for, if any."""
    if isinstance(ip, IPv4Address):
        return []
    assert isinstance(NAT64, IPv6Network)
    translated = IPv4Address(int(ip) & 0xFFFFFFFF) if ip in NAT64 else None
    teredo = ip.teredo[1] if ip.teredo else None
    return [each for each in (ip.ipv4_mapped, ip.sixtofour, teredo, translated) if each is not None]


def _break(connection: HTTPConnection) -> None:
    sock = connection.sock
    if sock is not None:
        try:
            sock.shutdown(socket.SHUT_RDWR)
        except OSError:
            return


logger = logging.getLogger(__name__)

TIMEOUT = 10.0
"""Seconds for a whole try."""

Send = Callable[[Batch, Delivery], Try]


def sender(*, key: bytes, allowed: Sequence[Network]) -> Send:
    """The way to the endpoints. Their secrets are derived from `key`; those within `allowed` may be reached though not public."""
    return partial(attempt, key=key, allowed=allowed)


def attempt(batch: Batch, delivery: Delivery, *, key: bytes, allowed: Sequence[Network]) -> Try:
    """Make one try."""
    began = time.monotonic()
    status: int | None = None
    try:
        secrets = [webhook_secret(key, batch.endpoint_id, generation) for generation in batch.generations]
        status = post(batch.url, delivery.body.encode(), sign(delivery, secrets), allowed=allowed, timeout=TIMEOUT)
        outcome = TryOutcome.DELIVERED if 200 <= status < 300 else TryOutcome.REFUSED
    except AddressForbidden:
        outcome = TryOutcome.FORBIDDEN
    except Unreachable:
        outcome = TryOutcome.UNREACHABLE
    return Try(outcome=outcome, status=status, seconds=round(time.monotonic() - began, 3))


def sign(delivery: Delivery, secrets: Sequence[str], *, at: datetime | None = None) -> dict[str, str]:
    """The headers of a message, with one signature for each secret."""
    moment = at or datetime.now(UTC)
    message_id = f"msg_{delivery.message_id.hex}"
    signatures = [Webhook(secret).sign(message_id, moment, delivery.body) for secret in secrets]
    return {
        "Content-Type": "application/json",
        "User-Agent": f"Expunge/{version('expunge')}",
        "webhook-id": message_id,
        "webhook-timestamp": str(int(moment.timestamp())),
        "webhook-signature": " ".join(signatures),
    }


def deliver_webhooks(sessions: sessionmaker[Session], *, send: Send) -> None:
    """Deliver until nothing is due: endpoint after endpoint, a batch at a time, each try written down before the next."""
    while True:
        with sessions.begin() as session:
            batch = take_batch(session)
        if batch is None:
            return
        failed = False
        for delivery in batch.deliveries:
            made = send(batch, delivery)
            with sessions.begin() as session:
                record_try(session, batch, delivery, made)
            failed = made.outcome != TryOutcome.DELIVERED
            if failed:
                logger.info("webhook %s: %s (%s)", batch.endpoint_id, made.outcome, made.status or "no answer")
                break
        with sessions.begin() as session:
            release_batch(session, batch, pause=failed)
