import gc
from collections.abc import Generator
from threading import Event

import pytest

from expunge.cli.caller import fetch_digests
from expunge.errors import Refused, ServiceUnreachable
from service.http import streaming
from tests.service.conftest import Serve, Site


def test_a_list_that_breaks_off_is_not_taken_for_whole(
    serve: Serve, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*arguments: object) -> Generator[list[bytes], None, None]:
        yield [b"a" * 32]
        raise OSError("the database is gone")

    monkeypatch.setattr(streaming, "read_digests", broken)
    with pytest.raises(ServiceUnreachable, match="broke off"):
        fetch_digests(serve(key=site.admin), "datasets", "scans")


def test_no_more_lists_are_read_out_at_once_than_there_are_connections_for(
    serve: Serve, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = serve(key=site.admin)
    assert fetch_digests(client, "models", "triage") == frozenset()
    monkeypatch.setattr(streaming, "MAX_LISTS", 0)
    with pytest.raises(Refused, match="503"):
        fetch_digests(client, "models", "triage")


def test_after_many_lists_there_are_as_many_connections_as_before(serve: Serve, site: Site) -> None:
    client = serve(key=site.admin)
    for _ in range(3 * streaming.MAX_LISTS):
        fetch_digests(client, "datasets", "scans")
        with client.stream("GET", "/datasets/scans/do-not-train") as answer:
            assert answer.status_code == 200  # and the client leaves


def test_a_list_is_closed_as_soon_as_its_client_leaves(
    serve: Serve, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed = Event()

    def endless(*arguments: object) -> Generator[list[bytes], None, None]:
        try:
            while True:
                yield [b"a" * 32] * 1000
        finally:
            closed.set()

    monkeypatch.setattr(streaming, "read_digests", endless)
    gc.disable()
    try:
        with serve(key=site.admin).stream("GET", "/datasets/scans/do-not-train") as answer:
            next(answer.iter_bytes())
        assert closed.wait(60)
    finally:
        gc.enable()
