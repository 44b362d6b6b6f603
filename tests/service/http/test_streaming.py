import errno
import socket
from collections.abc import Iterator

import httpx
import pytest
from sqlalchemy import text
from sqlalchemy.orm import Session, sessionmaker

import service.app
from expunge.cli.caller import fetch_digests
from expunge.errors import Refused, ServiceUnreachable
from service.http import streaming
from tests.fixtures.waiting import await_that
from tests.service.conftest import SAMPLE_KEY, Serve, Site, begin_call, set_up

PATH = "/datasets/scans/do-not-train"

LIST_LENGTH = 400_000
"""Digests of a list of 26 MB: more than the sockets between server and client hold."""


def stall(client: httpx.Client) -> socket.socket:
    """A connection whose client calls for the list, reads the first byte of the response, and then does nothing."""
    connection = begin_call(client, f"GET {PATH} HTTP/1.1")
    assert connection.recv(1)
    return connection


def open_transactions(sessions: sessionmaker[Session]) -> int | None:
    with sessions() as session:
        others = "datname = current_database() AND pid <> pg_backend_pid() AND xact_start IS NOT NULL"
        return session.scalar(text(f"SELECT count(*) FROM pg_stat_activity WHERE {others}"))


def await_list(client: httpx.Client) -> None:
    """Until the list is sent: the server notices a client's end a moment later."""

    def status() -> int:
        with client.stream("GET", PATH) as answer:  # which is not read to its end
            return answer.status_code

    await_that(lambda: status() == 200, "room for a list")


@pytest.fixture
def long_list(monkeypatch: pytest.MonkeyPatch) -> None:
    def digests(*arguments: object) -> Iterator[list[bytes]]:
        yield from ([b"a" * 32] * 10_000 for _ in range(LIST_LENGTH // 10_000))

    monkeypatch.setattr(streaming, "read_digests", digests)


def test_a_list_that_cannot_be_read_to_its_end_is_refused(
    serve: Serve, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*arguments: object) -> Iterator[list[bytes]]:
        yield [b"a" * 32]
        raise OSError("no space left on device")

    monkeypatch.setattr(streaming, "read_digests", broken)
    with pytest.raises(Refused, match="503"):
        fetch_digests(serve(key=site.admin), "/datasets/scans/do-not-train", hashed_under=bytes.fromhex(SAMPLE_KEY))


@pytest.mark.usefixtures("long_list")
def test_a_list_that_breaks_off_is_not_taken_for_whole(
    serve: Serve, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, reads = streaming.DigestList._next_lines, iter(range(3))

    def fail_later(response: streaming.DigestList) -> bytes:
        if next(reads, None) is None:
            raise OSError(errno.EIO, "Input/output error")
        return read(response)

    monkeypatch.setattr(streaming.DigestList, "_next_lines", fail_later)
    with pytest.raises(ServiceUnreachable, match="broke off"):
        fetch_digests(serve(key=site.admin), "/datasets/scans/do-not-train", hashed_under=bytes.fromhex(SAMPLE_KEY))


@pytest.mark.usefixtures("long_list")
def test_a_long_list_arrives_whole(serve: Serve, site: Site) -> None:
    answer = serve(key=site.admin).get(PATH)
    assert answer.text == f"{(b'a' * 32).hex()}\n" * LIST_LENGTH


@pytest.mark.usefixtures("long_list")
def test_slow_readers_take_their_own_tenants_share_and_no_transaction(
    serve: Serve, site: Site, sessions: sessionmaker[Session], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service.app, "MAX_LISTS", 4)
    with sessions.begin() as session:
        other = set_up(session, "other")
    client = serve(key=site.admin, alone=True)
    stranger = {"Authorization": f"Bearer {other.admin}"}
    with stall(client):
        refused = client.get(PATH)
        assert (refused.status_code, refused.json()["type"].rpartition("/")[2]) == (429, "too-many-calls")
        assert client.get(PATH, headers=stranger).status_code == 200
        assert open_transactions(sessions) == 0
    await_list(client)


@pytest.mark.usefixtures("long_list")
@pytest.mark.parametrize("digests", [streaming.DIGESTS_A_CHUNK, LIST_LENGTH], ids=["in the middle", "at the last part"])
def test_a_reader_that_takes_nothing_is_left(
    serve: Serve, site: Site, monkeypatch: pytest.MonkeyPatch, digests: int
) -> None:
    """At the last part too, which is sent at once and whose end waits until it has been taken."""
    monkeypatch.setattr(service.app, "MAX_LISTS", 4)
    monkeypatch.setattr(streaming, "DIGESTS_A_CHUNK", digests)
    monkeypatch.setattr(streaming, "SEND_SECONDS", 0.3)
    client = serve(key=site.admin, alone=True)
    with stall(client):
        await_list(client)


def test_no_more_lists_are_sent_at_once_than_the_process_can(
    serve: Serve, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service.app, "MAX_LISTS", 0)
    answer = serve(key=site.admin, alone=True).get(PATH)
    assert (answer.status_code, answer.json()["checks"]) == (503, {"lists": "full"})


def test_after_many_lists_there_are_as_many_connections_as_before(serve: Serve, site: Site) -> None:
    client = serve(key=site.admin)
    for _ in range(3 * streaming.MAX_LISTS):
        fetch_digests(client, "/datasets/scans/do-not-train", hashed_under=bytes.fromhex(SAMPLE_KEY))
        with client.stream("GET", PATH) as answer:
            assert answer.status_code == 200  # and the client leaves
