"""Calls to a system that wants to hold its caller for ever."""

import socket
import ssl
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from connectors import http, mlflow
from connectors.configuration import HandOverFailed
from connectors.http import Server
from connectors.mlflow import MlflowRegistry
from tests.connectors.test_model_server import VERSION
from tests.fixtures.servers import silent

PIECES = 3000
"""How many pieces a slow answer has: at 50 a second it ends after a minute, so that a test does too."""


class SlowHandler(BaseHTTPRequestHandler):
    """Answers a byte at a time, or with pages that never end."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        if "model-versions/search" in self.path:
            self._send(b'HTTP/1.1 200 OK\r\nContent-Length: 24\r\n\r\n{"next_page_token": "x"}')
            return
        if self.path == "/headers":
            self._send(b"HTTP/1.1 200 OK\r\nX-Long: ", *[b"x"] * PIECES, b"\r\nContent-Length: 2\r\n\r\n{}")
        elif self.path == "/chunks":
            self._send(
                b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", *[b"1\r\nx\r\n"] * PIECES, b"0\r\n\r\n"
            )
        else:
            self._send(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n", *[b"x"] * PIECES)
        self.close_connection = True

    do_POST = do_GET

    def _send(self, *pieces: bytes) -> None:
        try:
            for number, piece in enumerate(pieces):
                if number:
                    time.sleep(0.02)
                self.wfile.write(piece)
        except OSError:  # the caller has left
            self.close_connection = True

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def slow() -> Iterator[str]:
    """The address of a system that holds its caller."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), SlowHandler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.mark.parametrize("path", ["/headers", "/body", "/chunks"])
def test_an_answer_that_trickles_in_ends_with_the_time_of_the_call(
    slow: str, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http, "STEPS", 0.01)  # of 30 seconds for a step, none of which takes as long
    with pytest.raises(HandOverFailed, match="took more than"):
        Server(url=slow).call("GET", path)


@pytest.mark.parametrize("path", ["/headers", "/body", "/chunks"])
def test_so_does_a_file(slow: str, path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "FILE_SECONDS", 0.3)
    with pytest.raises(HandOverFailed, match="took more than"):
        Server(url=slow).receive_file(path)


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_server_that_takes_the_call_and_says_nothing_does_not_answer(scheme: str, tmp_path: Path) -> None:
    weights = tmp_path / "weights"
    weights.write_bytes(bytes(8_000_000))  # more than the buffers of the connection hold
    with silent() as port:
        server = Server(url=f"{scheme}://127.0.0.1:{port}", timeout=0.2)
        for act in (
            lambda: server.call("POST", "/deploy", {"version": 2}),
            lambda: server.receive_file("/weights"),
            lambda: server.send_file("/weights", weights),
        ):
            with pytest.raises(HandOverFailed, match="does not answer"):
                act()


def test_a_list_of_versions_without_end_is_left(slow: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mlflow, "MAX_PAGES", 3)
    with pytest.raises(HandOverFailed, match="no end after 3 pages"):
        MlflowRegistry(url=slow).check(replace(VERSION, model="digits"))


def test_shutting_down_a_socket_does_not_take_the_keys_from_whoever_reads() -> None:
    """Its read would end with an error that is none of the network's."""
    ours, theirs = socket.socketpair()
    context = ssl.create_default_context()
    with theirs, context.wrap_socket(ours, server_hostname="hooks.example", do_handshake_on_connect=False) as secured:
        http.shut_down(secured)
        assert secured.read(1) == b""
