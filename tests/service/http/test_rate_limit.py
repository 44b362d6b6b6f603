import time

import pytest
from pydantic import ValidationError

from service.settings import Settings
from tests.service.conftest import SAMPLE_KEY, Serve, Site


def test_a_key_over_its_rate_is_told_when_to_go_on(serve: Serve, site: Site, broker_url: str) -> None:
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


def test_a_broker_that_is_away_lets_every_call_pass_without_waiting(serve: Serve, site: Site) -> None:
    client = serve(key=site.reader, rate_limit="1/hour")
    client.get("/models")
    began = time.monotonic()

    assert {client.get("/models").status_code for _ in range(5)} == {200}
    assert time.monotonic() - began < 3


def test_without_a_limit_nothing_is_counted(serve: Serve, site: Site, broker_url: str) -> None:
    client = serve(key=site.reader, broker=broker_url)
    assert {client.get("/models").status_code for _ in range(5)} == {200}


def test_a_limit_that_cannot_be_read_stops_the_start() -> None:
    given = {"database_url": "postgresql://localhost/x", "redis_url": "redis://x", "sample_key": SAMPLE_KEY}
    with pytest.raises(ValidationError, match="100/minute"):
        Settings(**given, rate_limit="often")
    assert Settings(**given, rate_limit="").rate_limit is None
