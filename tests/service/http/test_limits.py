from collections.abc import Iterator

import pytest
from pydantic import ValidationError

from service.http import limits
from service.settings import Settings
from tests.service.conftest import SAMPLE_KEY, Serve, Site

PATH = "/methods"
"""It takes no body, and still must not be made to read one."""


def test_a_declared_length_above_the_limit_is_refused_at_once(serve: Serve) -> None:
    answer = serve(max_body_bytes=1000).request("GET", PATH, content=b"x" * 1001)

    assert answer.status_code == 413
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.headers["x-content-type-options"] == "nosniff"


def test_a_body_of_just_the_limit_passes(serve: Serve) -> None:
    assert serve(max_body_bytes=1000).request("GET", PATH, content=b"x" * 1000).status_code == 200


def test_a_streamed_body_is_counted_while_it_arrives(serve: Serve, site: Site) -> None:
    def pieces() -> Iterator[bytes]:
        for _ in range(20):
            yield b"x" * 100

    headers = {"Content-Type": "application/json"}
    answer = serve(max_body_bytes=1000, key=site.writer).post("/unlearn-requests", content=pieces(), headers=headers)

    assert answer.status_code == 413
    assert answer.json()["type"] == "https://expunge.dev/problems/body-too-large"


def test_a_key_above_its_rate_is_told_when_to_continue(serve: Serve, site: Site, broker_url: str) -> None:
    client = serve(key=site.reader, broker=broker_url, rate_limit="3/hour")

    *passed, refused = (client.get("/models") for _ in range(4))

    assert [answer.status_code for answer in passed] == [200] * 3
    assert (refused.status_code, refused.json()["type"]) == (429, "https://expunge.dev/problems/too-many-calls")
    assert 1 <= int(refused.headers["retry-after"]) <= 3600


def test_each_key_is_counted_for_itself_and_over_all_processes(serve: Serve, site: Site, broker_url: str) -> None:
    first = serve(key=site.auditor, broker=broker_url, rate_limit="1/hour")
    second = serve(key=site.auditor, broker=broker_url, rate_limit="1/hour")
    other = serve(key=site.admin, broker=broker_url, rate_limit="1/hour")

    statuses = [client.get("/models").status_code for client in (first, second, other)]

    assert statuses == [403, 429, 200]  # a refused call counts too


def test_while_the_broker_is_away_every_call_passes_and_only_the_first_waits_for_it(
    serve: Serve, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "PAUSE", 3600.0)
    tries: list[object] = []
    hit = limits.SlidingWindowCounterRateLimiter.hit

    def counted(*arguments: object) -> bool:
        tries.append(arguments)
        return hit(*arguments)  # type: ignore[arg-type]  # passed on

    monkeypatch.setattr(limits.SlidingWindowCounterRateLimiter, "hit", counted)
    client = serve(key=site.reader, rate_limit="1/hour")

    assert {client.get("/models").status_code for _ in range(5)} == {200}
    assert len(tries) == 1


def test_without_a_limit_nothing_is_counted(serve: Serve, site: Site, broker_url: str) -> None:
    client = serve(key=site.reader, broker=broker_url)
    assert {client.get("/models").status_code for _ in range(5)} == {200}


def test_a_limit_that_cannot_be_parsed_stops_the_start() -> None:
    given = {"database_url": "postgresql://localhost/x", "redis_url": "redis://x", "sample_key": SAMPLE_KEY}
    with pytest.raises(ValidationError, match="rate_limit"):
        Settings(**given, rate_limit="often")
    assert Settings(**given, rate_limit="").rate_limit is None
