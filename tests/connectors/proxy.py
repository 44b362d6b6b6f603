"""A proxy on loopback between a connector and a real server, which fails as a test wants it to."""

import http.client
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

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

    class Handler(BaseHTTPRequestHandler):
        def _pass_on(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            seen.calls.append((self.command, self.path))
            seen.credentials.append(self.headers.get("Authorization"))
            status = seen.fault(self.command, self.path)
            content = b"{}"
            if status is None or seen.does_work:
                connection = http.client.HTTPConnection(server.hostname or "", server.port, timeout=60)
                headers = {name: value for name, value in self.headers.items() if name.lower() != "host"}
                connection.request(self.command, self.path, body, headers)
                answer = connection.getresponse()
                given = answer.read()
                connection.close()
                if status is None:
                    status, content = answer.status, given
            self.send_response(status)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _pass_on

        def log_message(self, *_: object) -> None: ...

    listener = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    seen.url = f"http://127.0.0.1:{listener.server_port}"
    thread = threading.Thread(target=listener.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield seen
    finally:
        listener.shutdown()
        thread.join()
        listener.server_close()
