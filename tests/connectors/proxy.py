"""A proxy on loopback between a connector and a real server, which fails as a test wants it to."""

import http.client
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from email.message import Message
from urllib.parse import urlsplit

from tests.fixtures.servers import answering

Fault = Callable[[str, str], int | None]
"""Gives, for a method and a target, the status with which to answer in place of what the server says; None to pass that on."""


@dataclass
class Proxy:
    """What a proxy does. fault: see Fault. does_work: whether the server gets a call that is answered in its place.

    calls: methods and targets that came. credentials: what each brought.
    """

    fault: Fault = lambda method, target: None
    does_work: bool = True
    calls: list[tuple[str, str]] = field(default_factory=list)
    credentials: list[str | None] = field(default_factory=list)
    url: str = ""

    def fail_call(self, number: int, status: int = 500) -> None:
        """Answer the call of this number, from 0, with a status, and none after it."""
        self.calls.clear()
        self.fault = lambda method, target: status if len(self.calls) == number + 1 else None


@contextmanager
def proxy_of(url: str) -> Iterator[Proxy]:
    """Run a proxy of a server while the block runs."""
    server = urlsplit(url)
    seen = Proxy()

    def answer(method: str, target: str, headers: Message, body: bytes) -> tuple[int, bytes]:
        seen.calls.append((method, target))
        seen.credentials.append(headers["Authorization"])
        status = seen.fault(method, target)
        if status is not None and not seen.does_work:
            return status, b"{}"
        connection = http.client.HTTPConnection(server.hostname or "", server.port, timeout=60)
        given = {name: value for name, value in headers.items() if name.lower() != "host"}
        connection.request(method, target, body, given)
        found = connection.getresponse()
        content = found.read()
        connection.close()
        return (found.status, content) if status is None else (status, b"{}")

    with answering(answer) as seen.url:
        yield seen
