"""POST to addresses that callers name: only where the operator lets connections lead.

A name is resolved once, its addresses are checked, and the connection goes to exactly the checked address. So a name that resolves
to a public address when it is checked and to a private one when it is used gains nothing. Redirects are never followed.
"""

import socket
import ssl
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from http.client import HTTPConnection, HTTPException
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address
from typing import Any
from urllib.parse import SplitResult, urlsplit

from connectors.http import shut_down
from worker.failures import AddressForbidden, Unreachable
from worker.settings import Network

NAT64 = IPv6Network("64:ff9b::/96")
"""A gateway translates these to the IPv4 address in their last 32 bits (RFC 6052)."""

UNICAST = IPv6Network("2000::/3")
"""What is assigned as global unicast. Everything else is local, reserved or a translation, whatever Python's tables know of it:
64:ff9b:1::/48 (RFC 8215), fec0::/10 (site-local), ::a.b.c.d (IPv4-compatible), 5f00::/16 (segment routing)."""

DOCUMENTATION = IPv6Network("3fff::/20")
"""Within 2000::/3, and younger than Python's tables (RFC 9637)."""

ISATAP = (0x00005EFE, 0x02005EFE)
"""The bits 64 to 95 of an address whose last 32 bits are an IPv4 address (RFC 5214)."""


def post(url: str, body: bytes, headers: dict[str, str], *, allowed: Sequence[Network], timeout: float) -> int:
    """POST a body and return the status of the response; `timeout` is in seconds, for everything together.

    Plain http, and addresses that are not public, are possible only within the networks `allowed`. Raises AddressForbidden,
    Unreachable.
    """
    parts, deadline = urlsplit(url), time.monotonic() + timeout
    connection = HTTPConnection(parts.hostname or "", timeout=timeout)
    # A socket's timeout is for each operation: a response that trickles in would never run into it.
    timer = threading.Timer(timeout, _shut_down, (connection,))
    timer.start()
    try:
        connection.sock = _connect(parts, allowed=allowed, deadline=deadline)
        # Raises if the timer has already fired, when there was no socket to shut down.
        connection.sock.settimeout(_seconds_left(deadline))
        target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        connection.request("POST", target, body, {"Host": parts.netloc, **headers})
        return connection.getresponse().status
    except (OSError, HTTPException, ValueError) as error:
        raise Unreachable(type(error).__name__) from error
    finally:
        timer.cancel()
        connection.close()


def may_reach(address: str | int, allowed: Sequence[Network], *, secure: bool) -> bool:
    """Return whether a connection may lead to an address: one of the allowed networks; or, with TLS, a public one."""
    ip = ip_address(str(address).partition("%")[0])
    meant = [ip, *_embedded(ip)]
    if any(each in network for each in meant for network in allowed if each.version == network.version):
        return True
    return secure and all(_is_public(each) for each in meant)


def _embedded(ip: IPv4Address | IPv6Address) -> list[IPv4Address]:
    """List the IPv4 addresses to which a gateway would translate an IPv6 address."""
    if isinstance(ip, IPv4Address):
        return []
    last = IPv4Address(int(ip) & 0xFFFFFFFF)
    translated = last if ip in NAT64 or (int(ip) >> 32) & 0xFFFFFFFF in ISATAP else None
    teredo = ip.teredo[1] if ip.teredo else None
    return [each for each in (ip.ipv4_mapped, ip.sixtofour, teredo, translated) if each is not None]


def _is_public(ip: IPv4Address | IPv6Address) -> bool:
    if isinstance(ip, IPv6Address) and (ip in DOCUMENTATION or not (ip in UNICAST or ip in NAT64)):
        return False
    return ip.is_global and not ip.is_multicast


def _connect(parts: SplitResult, *, allowed: Sequence[Network], deadline: float) -> socket.socket:
    """Open a socket to an address of the URL's host that may be reached, until `deadline` by the monotonic clock.

    Raises AddressForbidden, OSError, ValueError.
    """
    secure = parts.scheme == "https"
    port = parts.port or (443 if secure else 80)
    found = socket.getaddrinfo(parts.hostname, port, type=socket.SOCK_STREAM)
    reachable = [
        (family, address) for family, _, _, _, address in found if may_reach(address[0], allowed, secure=secure)
    ]
    if not reachable:
        raise AddressForbidden("the host has no public address, and none within EXPUNGE_WEBHOOK_NETWORKS")
    for family, address in reachable[:-1]:
        with suppress(OSError):  # The next address may respond: there may be no route to IPv6, say.
            return _open(family, address, parts, deadline=time.monotonic() + _seconds_left(deadline) / 2)
    return _open(*reachable[-1], parts, deadline=deadline)


def _open(family: int, address: Any, parts: SplitResult, *, deadline: float) -> socket.socket:
    plain = socket.socket(family, socket.SOCK_STREAM)
    try:
        plain.settimeout(_seconds_left(deadline))
        plain.connect(address)
        if parts.scheme == "http":
            return plain
        plain.settimeout(_seconds_left(deadline))
        return ssl.create_default_context().wrap_socket(plain, server_hostname=parts.hostname)
    except BaseException:
        plain.close()
        raise


def _seconds_left(deadline: float) -> float:
    """Return the seconds until the deadline. Raises TimeoutError if it has passed."""
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError("the whole try took too long")
    return left


def _shut_down(connection: HTTPConnection) -> None:
    connected = connection.sock  # Read once: the try may end at this moment, and its socket with it.
    if connected is not None:
        shut_down(connected)
