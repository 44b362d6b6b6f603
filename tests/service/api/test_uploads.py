import socket
import time

import pytest
from sqlalchemy import text
from sqlalchemy.orm import Session, sessionmaker

from service.api import uploads
from tests.service.conftest import Serve, Site

TEXT = {"Content-Type": "text/plain"}


def test_no_more_are_received_at_once_than_there_are_connections_for(
    serve: Serve, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(uploads, "MAX_UPLOADS", 0)
    answer = serve(key=site.writer).post("/manifests", params={"dataset": "scans"}, content=b"a", headers=TEXT)
    assert (answer.status_code, answer.json()["checks"]) == (503, {"uploads": "full"})


def test_one_that_takes_too_long_is_refused(serve: Serve, site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uploads, "UPLOAD_TIMEOUT", -1.0)
    answer = serve(key=site.writer).post("/manifests", params={"dataset": "scans"}, content=b"a", headers=TEXT)
    assert (answer.status_code, answer.json()["type"].rpartition("/")[2]) == (422, "invalid-line")


def test_one_that_breaks_off_leaves_nothing_and_the_next_is_received(
    serve: Serve, site: Site, sessions: sessionmaker[Session]
) -> None:
    client = serve(key=site.writer)
    head = (
        f"POST /manifests?dataset=scans HTTP/1.1\r\nHost: x\r\nAuthorization: {client.headers['Authorization']}\r\n"
        "Content-Type: text/plain\r\nContent-Length: 1000\r\n\r\nsample-1\nsample-2\n"
    )
    for _ in range(uploads.MAX_UPLOADS + 1):
        with socket.create_connection((client.base_url.host, client.base_url.port or 80)) as half:
            half.sendall(head.encode())
            half.shutdown(socket.SHUT_WR)
            half.recv(1)  # an answer, or the end: it has been noticed
    limit = time.monotonic() + 30
    while True:  # The server hears of the last end a moment after the client.
        answer = client.post("/manifests", params={"dataset": "scans"}, content=b"sample-1", headers=TEXT)
        if answer.status_code != 503 or time.monotonic() > limit:
            break
    assert answer.status_code == 201
    with sessions() as session:
        assert session.scalar(text("SELECT count(*) FROM uploaded_manifests")) == 1
