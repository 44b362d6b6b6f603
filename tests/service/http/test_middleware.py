import json
import logging
from collections.abc import Iterator
from uuid import UUID, uuid4

import pytest
from opentelemetry.instrumentation.asgi import get_host_port_url_tuple
from opentelemetry.util.http import parse_excluded_urls

from service.api import keys
from service.app import UNTRACED
from service.http.middleware import SECURITY_HEADERS
from telemetry.logs import LogFormat, make_formatter
from tests.fixtures.waiting import await_that
from tests.service.conftest import Serve, Site

ASKED = {"dataset": "scans", "sample_ids": ["sample-1"], "expedite": True}


@pytest.mark.parametrize("path", ["/livez", "/methods", "/nothing", "/openapi.json"])
def test_every_response_has_the_security_headers(serve: Serve, path: str) -> None:
    headers = serve().get(path).headers

    assert SECURITY_HEADERS.items() <= {name: headers[name] for name in SECURITY_HEADERS}.items()


def test_the_documentation_page_may_load_its_script_and_nothing_else(serve: Serve) -> None:
    policy = serve().get("/docs").headers["content-security-policy"]

    assert "script-src 'self'" in policy
    assert policy.startswith("default-src 'none'")


def test_every_response_has_an_id_and_a_callers_own_uuid_is_kept(serve: Serve, site: Site) -> None:
    client, own = serve(key=site.admin), str(uuid4())

    assert client.get("/methods", headers={"X-Request-ID": own}).headers["X-Request-ID"] == own
    assert UUID(client.get("/nowhere").headers["X-Request-ID"])
    assert UUID(client.get("/methods", headers={"X-Request-ID": "sample-1"}).headers["X-Request-ID"])


@pytest.fixture
def lines() -> Iterator[list[str]]:
    """Lines of the access log, as the API writes them."""
    written: list[str] = []

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            written.append(self.format(record))

    handler = Keep()
    handler.setFormatter(make_formatter(LogFormat.JSON))
    logger = logging.getLogger("service.http.middleware")
    level = logger.level
    logger.setLevel(logging.INFO)
    logger.addHandler(handler)
    yield written
    logger.removeHandler(handler)
    logger.setLevel(level)


def test_a_call_is_logged_by_its_route_with_the_ids_in_its_path_and_no_sample(
    serve: Serve, site: Site, lines: list[str]
) -> None:
    client = serve(key=site.admin)
    request_id = client.post("/unlearn-requests", json=ASKED).json()["id"]
    call_id = client.get(f"/unlearn-requests/{request_id}").headers["X-Request-ID"]
    client.get("/nowhere/sample-1")
    client.get("/metrics")

    # A call's line is written when its work after the response has ended as well.
    read, nowhere, made = sorted(map(json.loads, lines), key=lambda line: str(line["message"]))
    assert made["message"].startswith("POST /unlearn-requests 202")
    assert (read["request_id"], read["call_id"]) == (request_id, call_id)
    assert nowhere["message"].startswith("GET no route 404")
    assert "sample-1" not in "".join(lines)


def test_an_unexpected_error_is_found_in_the_log_by_the_id_of_its_response(
    serve: Serve, site: Site, lines: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("sample-1")

    monkeypatch.setattr(keys, "list_signing_keys", fail)
    answer = serve().get("/keys")

    await_that(lambda: len(lines) == 2, "both lines")  # A call's line is written after its response.
    error, call = map(json.loads, lines)
    assert (answer.status_code, answer.json()["type"].rpartition("/")[2]) == (500, "unexpected")
    assert SECURITY_HEADERS.items() <= {name: answer.headers[name] for name in SECURITY_HEADERS}.items()
    assert error["call_id"] == call["call_id"] == answer.headers["X-Request-ID"]
    assert (error["level"], error["error"]) == ("error", "RuntimeError")
    assert call["message"].startswith("GET /keys 500")
    assert "sample-1" not in "".join(lines) + answer.text


def test_what_a_client_invents_is_not_logged(serve: Serve, lines: list[str]) -> None:
    serve().request("SAMPLE-1", "/keys?sample-1=1")
    serve().request("GET", "/%0asample-1%1b[31m", params={"id": "sample-1"})
    await_that(lambda: len(lines) == 2, "both lines")
    messages = {json.loads(line)["message"].split(" in ")[0] for line in lines}
    assert messages == {"other /keys 405", "GET no route 404"}
    assert "sample-1" not in "".join(lines).lower()


@pytest.mark.parametrize(
    ("path", "traced"),
    [
        ("/livez", False),
        ("/readyz", False),
        ("/metrics", False),
        ("/models/metrics", True),
        ("/datasets/livez/do-not-train", True),
    ],
)
def test_what_monitoring_calls_all_the_time_is_not_traced_and_a_model_of_that_name_is(path: str, traced: bool) -> None:
    scope = {"type": "http", "scheme": "https", "server": ("10.0.0.5", 8000), "path": path}
    for headers in ([], [(b"host", b"[::1]:8000")], [(b"host", b"metrics.example")]):
        _, _, url = get_host_port_url_tuple({**scope, "headers": headers})
        assert parse_excluded_urls(UNTRACED).url_disabled(url) is not traced
