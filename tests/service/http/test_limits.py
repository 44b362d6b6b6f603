import pytest
from pydantic import ValidationError

from service.app import create_app
from service.http import limits
from service.settings import Settings
from tests.service.conftest import SAMPLE_KEY, Serve, Site

GIVEN = {"database_url": "postgresql://localhost/x", "redis_url": "redis://x", "sample_key": SAMPLE_KEY}


def test_a_key_above_its_rate_is_refused_with_when_to_continue(serve: Serve, site: Site, broker_url: str) -> None:
    client = serve(key=site.reader, broker=broker_url, rate_limit="3/year")

    *passed, refused = (client.get("/models") for _ in range(4))

    assert [answer.status_code for answer in passed] == [200] * 3
    assert (refused.status_code, refused.json()["type"]) == (429, "https://expunge.dev/problems/too-many-calls")
    assert 1 <= int(refused.headers["retry-after"]) <= 366 * 86400


def test_each_key_is_counted_for_itself_and_over_all_processes(serve: Serve, site: Site, broker_url: str) -> None:
    first = serve(key=site.auditor, broker=broker_url, rate_limit="1/year")
    second = serve(key=site.auditor, broker=broker_url, rate_limit="1/year")
    other = serve(key=site.admin, broker=broker_url, rate_limit="1/year")

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
    client = serve(key=site.reader, rate_limit="1/year")

    assert {client.get("/models").status_code for _ in range(5)} == {200}
    assert len(tries) == 1


def test_without_a_limit_nothing_is_counted(serve: Serve, site: Site, broker_url: str) -> None:
    client = serve(key=site.reader, broker=broker_url)
    assert {client.get("/models").status_code for _ in range(5)} == {200}


def test_a_limit_that_cannot_be_parsed_stops_the_start() -> None:
    with pytest.raises(ValidationError, match="rate_limit"):
        Settings(**GIVEN, rate_limit="often")
    assert Settings(**GIVEN, rate_limit="").rate_limit is None


def test_calls_without_a_good_key_are_counted_by_address(serve: Serve, site: Site) -> None:
    settings = {"address_rate_limit": "3/year"}
    stranger, guesser = serve(alone=True, **settings), serve(key="expunge_abc_def", alone=True, **settings)

    answers = [stranger.get("/models"), stranger.get("/keys"), stranger.post("/unlearn-requests", content=b"{")]
    refused = stranger.get("/keys")

    assert [answer.status_code for answer in answers] == [401, 200, 401]
    assert (refused.status_code, refused.json()["type"].rpartition("/")[2]) == (429, "too-many-calls")
    assert 1 <= int(refused.headers["retry-after"]) <= 366 * 86400
    page = stranger.post("/console/sign-in", data={"key": "x"})
    assert (page.status_code, page.headers["content-type"]) == (429, "text/html; charset=utf-8")
    assert 1 <= int(page.headers["retry-after"]) <= 366 * 86400
    assert [guesser.get("/models").status_code for _ in range(4)] == [401, 401, 401, 429]


def test_whoever_shares_an_address_with_a_guesser_is_still_served(serve: Serve, site: Site) -> None:
    client = serve(key=site.reader, alone=True, address_rate_limit="1/year")
    for _ in range(3):
        client.get("/models", headers={"Authorization": "Bearer nonsense"})

    assert client.get("/models").status_code == 200
    assert client.get("/livez").status_code == 200


def test_an_address_is_what_a_trusted_proxy_says(serve: Serve, site: Site) -> None:
    """Uvicorn trusts the loopback address unless FORWARDED_ALLOW_IPS says otherwise."""
    client = serve(alone=True, address_rate_limit="1/year")

    def call(address: str) -> int:
        return client.get("/keys", headers={"X-Forwarded-For": address}).status_code

    assert [call("192.0.2.1"), call("192.0.2.2"), call("192.0.2.1")] == [200, 200, 429]
    assert [call("2001:db8::1"), call("2001:db8::2"), call("2001:db8:0:1::1")] == [200, 429, 200]
    assert [call("::ffff:192.0.2.3"), call("::ffff:192.0.2.4"), call("::ffff:c000:203")] == [200, 200, 429]
    assert call("::ffff:192.0.2.1") == call("192.0.2.3") == 429


def test_addresses_are_not_counted_where_the_operator_says_so() -> None:
    assert create_app(Settings(**GIVEN, address_rate_limit="none")).state.address_limit is None
    assert create_app(Settings(**GIVEN)).state.address_limit is not None
