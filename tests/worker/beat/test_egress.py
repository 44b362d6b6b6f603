import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, HTTPServer
from ipaddress import ip_network
from typing import Any

import pytest

from tests.fixtures.servers import silent
from tests.fixtures.waiting import PATIENCE
from worker.beat import egress
from worker.failures import AddressForbidden, Unreachable

LOOPBACK = (ip_network("127.0.0.0/8"),)


class Receiver(BaseHTTPRequestHandler):
    """Answers with the status that the path names, and keeps what came."""

    received: list[tuple[str, dict[str, str], bytes]]

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        type(self).received.append((self.path, dict(self.headers), body))
        self.send_response(int(self.path.partition("?")[0].strip("/")))
        self.send_header("Location", "/200")
        self.end_headers()

    def log_message(self, *arguments: object) -> None:
        return


@pytest.fixture
def receiver() -> Iterator[tuple[str, list[tuple[str, dict[str, str], bytes]]]]:
    handler = type("Handler", (Receiver,), {"received": []})
    with HTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}", handler.received  # type: ignore[attr-defined]
        server.shutdown()
        thread.join(PATIENCE)


def post(url: str, **more: object) -> int:
    given = {"allowed": LOOPBACK, "timeout": PATIENCE} | more
    return egress.post(url, b"{}", {"webhook-id": "msg_1"}, **given)  # type: ignore[arg-type]


def test_the_body_and_the_headers_arrive(receiver: tuple[str, list[tuple[str, dict[str, str], bytes]]]) -> None:
    url, received = receiver
    assert post(f"{url}/204?to=them") == 204
    ((path, headers, body),) = received
    assert (path, headers["webhook-id"], body) == ("/204?to=them", "msg_1", b"{}")
    assert headers["Host"] in url


def test_a_redirect_is_returned_and_not_followed(
    receiver: tuple[str, list[tuple[str, dict[str, str], bytes]]],
) -> None:
    url, received = receiver
    assert post(f"{url}/302") == 302
    assert [path for path, _, _ in received] == ["/302"]


def test_nothing_is_sent_to_an_address_that_is_not_allowed(
    receiver: tuple[str, list[tuple[str, dict[str, str], bytes]]],
) -> None:
    url, received = receiver
    for address in (url, url.replace("127.0.0.1", "localhost"), url.replace("http:", "https:")):
        with pytest.raises(AddressForbidden):
            post(f"{address}/200", allowed=())
    assert received == []


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1", "0.0.0.0", "224.0.0.1",
        "255.255.255.255", "::1", "::", "fe80::1%eth0", "fc00::1", "ff02::1", "::ffff:127.0.0.1", "::ffff:169.254.169.254",
        "64:ff9b::a00:1", "2002:7f00:1::", "2002:a9fe:a9fe::1",
        "64:ff9b:1::1", "64:ff9b:1:a00:1::", "64:ff9b:1::808:808", "fec0::1", "feff::1", "::7f00:1", "::808:808", "5f00::1",
        "3fff::1", "2001:db8::1", "2001:0:7f00:1::1", "2606:4700::5efe:a00:1", "2606:4700::200:5efe:7f00:1", "100::1", "4000::1",
    ],
)  # fmt: skip
def test_an_address_that_is_not_public_is_reached_only_where_it_is_allowed(address: str) -> None:
    assert not egress.may_reach(address, (), secure=True)


def test_a_public_address_is_reached_with_tls_and_an_allowed_one_without() -> None:
    assert egress.may_reach("93.184.216.34", (), secure=True)
    assert egress.may_reach("2606:4700::1111", (), secure=True)
    assert egress.may_reach("64:ff9b::808:808", (), secure=True)
    assert egress.may_reach("2606:4700::5efe:808:808", (), secure=True)
    assert not egress.may_reach("93.184.216.34", (), secure=False)
    assert egress.may_reach("10.1.2.3", (ip_network("10.1.0.0/16"),), secure=False)
    assert egress.may_reach("::ffff:10.1.2.3", (ip_network("10.1.0.0/16"),), secure=False)
    assert not egress.may_reach("10.2.2.3", (ip_network("10.1.0.0/16"),), secure=True)


def test_a_name_is_resolved_once_and_the_connection_goes_to_what_was_checked(
    receiver: tuple[str, list[tuple[str, dict[str, str], bytes]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    url, received = receiver
    port = int(url.rpartition(":")[2])
    answers = [("127.0.0.1", port), ("10.0.0.1", port)]
    asked: list[str] = []

    def rebinding(host: str, *arguments: object, **more: object) -> list[object]:
        asked.append(host)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", answers[len(asked) - 1])]

    monkeypatch.setattr(socket, "getaddrinfo", rebinding)
    assert post(f"http://hooks.example:{port}/200") == 200
    assert asked == ["hooks.example"]
    assert received[0][1]["Host"] == f"hooks.example:{port}"


def test_no_connection_and_an_unknown_name_are_unreachable() -> None:
    for url in ("http://127.0.0.1:1/", "http://no-such-name.invalid/", "http://[::1/"):
        with pytest.raises((Unreachable, ValueError)):
            post(url)


@contextmanager
def trickling() -> Iterator[int]:
    """The port of a server whose response never ends."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def trickle() -> None:
            connection, _ = listener.accept()
            with connection:
                try:
                    while True:
                        connection.sendall(b"H")
                        threading.Event().wait(0.05)
                except OSError:
                    return

        thread = threading.Thread(target=trickle, daemon=True)
        thread.start()
        yield listener.getsockname()[1]
        thread.join(PATIENCE)


def test_a_response_that_never_ends_is_unreachable() -> None:
    """A client that waits for its end never returns."""
    with trickling() as port, pytest.raises(Unreachable):
        post(f"http://127.0.0.1:{port}/", timeout=0.3)


def test_a_server_that_takes_the_call_and_says_nothing_is_unreachable() -> None:
    with silent() as port, pytest.raises(Unreachable):
        post(f"http://127.0.0.1:{port}/", timeout=0.2)
    with silent() as port, pytest.raises(Unreachable):
        post(f"https://127.0.0.1:{port}/", timeout=0.2)


def test_so_is_one_for_which_no_time_is_left_after_the_name_is_resolved(monkeypatch: pytest.MonkeyPatch) -> None:
    """When the time is over, there is no connection yet that could be shut down."""
    resolve, over = socket.getaddrinfo, threading.Event()
    monkeypatch.setattr(egress, "_shut_down", lambda connection: over.set())

    def slowly(*arguments: Any, **more: Any) -> Any:
        assert over.wait(PATIENCE)
        return resolve(*arguments, **more)

    with trickling() as port:
        monkeypatch.setattr(socket, "getaddrinfo", slowly)
        with pytest.raises(Unreachable):
            post(f"http://127.0.0.1:{port}/", timeout=0.1)
        monkeypatch.undo()
        socket.create_connection(("127.0.0.1", port)).close()  # Lets the server end.


def test_a_try_that_ends_just_when_its_time_does_has_no_socket_left(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another thread shuts the socket down when the time is over: it finds the socket once, and then none."""
    asked: list[socket.socket | None] = []

    class Ending(HTTPConnection):
        opened: socket.socket | None = None

        @property
        def sock(self) -> socket.socket | None:
            if threading.current_thread() is threading.main_thread():
                return self.opened
            asked.append(None if asked else self.opened)
            return asked[-1]

        @sock.setter
        def sock(self, opened: socket.socket | None) -> None:
            self.opened = opened

    monkeypatch.setattr(egress, "HTTPConnection", Ending)
    with trickling() as port, pytest.raises(Unreachable):
        post(f"http://127.0.0.1:{port}/", timeout=2)
    assert asked[0] is not None


def test_an_address_that_does_not_respond_leaves_time_for_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[float] = []

    def refused(family: int, address: object, parts: object, *, deadline: float) -> socket.socket:
        given.append(deadline)
        raise TimeoutError

    found = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (f"127.0.0.{last}", 80)) for last in (1, 2, 3)]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *arguments, **more: found)
    monkeypatch.setattr(egress, "_open", refused)
    with pytest.raises(Unreachable):
        post("http://hooks.example/", timeout=100)
    assert given == sorted(given)
    assert given[-1] - given[0] > 40
