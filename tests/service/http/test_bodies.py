import json
import threading
from typing import Any

import httpx
import pytest

from service.http import bodies
from service.http.bodies import MAX_OBJECTS, SMALL_BODY, parse
from service.http.problems import MalformedJson
from tests.fixtures.waiting import PATIENCE
from tests.service.conftest import Serve, Site, begin_call, read_response

PATH = "/methods"
"""It takes no body, and still must not be made to read one."""

JSON = {"Content-Type": "application/json"}
GOOD = {"dataset": "scans", "sample_ids": ["sample-1"]}


def early_response(client: httpx.Client, path: str, *, media: str, body: bytes = b"") -> tuple[int, str]:
    """The response to a call of whose body only the beginning was sent."""
    head = f"POST {path} HTTP/1.1\nContent-Type: {media}\nContent-Length: 1000"
    with begin_call(client, head, body) as connection:
        return read_response(connection)


def test_a_declared_length_above_the_limit_is_refused_at_once(serve: Serve) -> None:
    answer = serve(max_body_bytes=1000).request("GET", PATH, content=b"x" * 1001)

    assert answer.status_code == 413
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize(
    ("path", "advice"),
    [
        (
            "/unlearn-requests",
            "Upload sample IDs with POST /uploads and subjects with POST /uploads/subjects, or split",
        ),
        ("/unlearn-requests:preview", "Upload sample IDs with POST /uploads and subjects"),
        ("/uploads?dataset=scans", "Split the list over several uploads"),
        ("/uploads/subjects", "Split the list over several uploads"),
        ("/manifests?dataset=scans", "Split the list over several uploads"),
        ("/managers/portal/requests", "A request names one person"),
        ("/opendsr/v2/requests", "A request names one person"),
        ("/transcend/webhook", "A request names one person"),
        ("/console/sign-in", "The form has one API key"),
        ("/webhooks", "No call of this path needs more"),
    ],
)
def test_what_is_too_large_gets_the_advice_that_fits_its_path(serve: Serve, path: str, advice: str) -> None:
    answer = serve(max_body_bytes=1000, max_upload_bytes=2000).post(path, content=b"x" * (256 * 1024 + 1))

    assert answer.status_code == 413
    assert advice in answer.json()["detail"]
    assert ("POST /uploads" in answer.json()["detail"]) == path.startswith("/unlearn-requests")


def test_a_body_of_just_the_limit_passes(serve: Serve) -> None:
    assert serve(max_body_bytes=1000).request("GET", PATH, content=b"x" * 1000).status_code == 200


def test_a_streamed_body_is_counted_while_it_arrives(serve: Serve, site: Site) -> None:
    chunks = (b"x" * 100 for _ in range(20))

    answer = serve(max_body_bytes=1000, key=site.writer).post("/unlearn-requests", content=chunks, headers=JSON)

    assert answer.status_code == 413
    assert answer.json()["type"] == "https://expunge.dev/problems/body-too-large"


@pytest.mark.parametrize(
    ("path", "media"),
    [
        ("/unlearn-requests", "application/json"),
        ("/unlearn-requests:preview", "application/json"),
        ("/webhooks", "application/json"),
        ("/uploads?dataset=scans", "text/plain"),
    ],
)
def test_without_a_good_key_the_answer_comes_before_the_body(serve: Serve, site: Site, path: str, media: str) -> None:
    for key, status in ((None, 401), ("expunge_abc_def", 401), (site.auditor, 403)):
        assert early_response(serve(key=key), path, media=media)[0] == status


def test_the_rate_is_counted_before_the_body(serve: Serve, site: Site, broker_url: str) -> None:
    client = serve(key=site.auditor, broker=broker_url, rate_limit="1/year")

    statuses = [early_response(client, "/unlearn-requests", media="application/json")[0] for _ in range(2)]

    assert statuses == [403, 429]


@pytest.mark.parametrize(
    ("path", "media", "body"),
    [
        ("/unlearn-requests", "application/json", b'{"dataset": '),
        ("/uploads?dataset=scans", "text/plain", b"sample-1\n"),
        ("/console/sign-in", "application/x-www-form-urlencoded", b"key="),
    ],
)
def test_a_body_that_stalls_is_refused_though_no_further_byte_comes(
    serve: Serve, site: Site, monkeypatch: pytest.MonkeyPatch, path: str, media: str, body: bytes
) -> None:
    monkeypatch.setattr(bodies, "IDLE_SECONDS", 0.3)

    status, response = early_response(serve(key=site.writer), path, media=media, body=body)

    assert status == 408
    assert "connection: close" in response.lower()


def test_a_large_body_is_parsed_while_other_calls_are_served(
    serve: Serve, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, go_on = threading.Event(), threading.Event()
    parse_now = bodies.parse_and_validate

    def parse_later(*arguments: Any) -> Any:
        begun.set()
        assert go_on.wait(PATIENCE)
        return parse_now(*arguments)

    monkeypatch.setattr(bodies, "parse_and_validate", parse_later)
    client, answers = serve(key=site.admin), list[httpx.Response]()
    body = json.dumps(GOOD | {"reason": "x" * SMALL_BODY})
    sender = threading.Thread(
        target=lambda: answers.append(client.post("/unlearn-requests", content=body, headers=JSON))
    )
    sender.start()
    try:
        assert begun.wait(PATIENCE)
        assert serve().get("/livez").status_code == 200
    finally:
        go_on.set()
        sender.join(PATIENCE)
    assert [answer.status_code for answer in answers] == [422]
    assert answers[0].json()["errors"] == [
        {"pointer": "/reason", "detail": "String should have at most 2000 characters."}
    ]


def test_a_large_body_gets_the_answer_of_a_small_one(serve: Serve, site: Site) -> None:
    client = serve(key=site.admin)
    large = GOOD | {"sample_ids": [f"sample-{n}" for n in range(10_000)]}
    assert len(json.dumps(large)) > SMALL_BODY
    assert client.post("/unlearn-requests", json=large).json()["samples"]["accepted"] == 50

    padding = " " * SMALL_BODY
    for wrong in (GOOD | {"expedite": 1}, GOOD | {"sample_idz": []}, [], None, GOOD | {"method": "lut"}, {}):
        small, padded = (
            client.post("/unlearn-requests", content=json.dumps(wrong) + more, headers=JSON) for more in ("", padding)
        )
        assert (small.status_code, small.json()) == (padded.status_code, padded.json())
        assert small.status_code == 422


@pytest.mark.parametrize(
    "text",
    [
        '{"dataset": "scans", "dataset": "other"}',
        '{"method": {"kind": "ltu", "kind": "ieu"}}',
        '{"a": NaN}',
        "[-Infinity]",
    ],
)
def test_what_has_two_meanings_is_not_json(serve: Serve, site: Site, text: str) -> None:
    client = serve(key=site.admin)
    for padding in ("", " " * SMALL_BODY):
        answer = client.post("/unlearn-requests", content=text + padding, headers=JSON)
        assert (answer.status_code, answer.json()["type"].rpartition("/")[2]) == (400, "malformed-json")


@pytest.mark.parametrize(
    "body", [b"[" + b"{}," * MAX_OBJECTS + b"{}]", json.dumps(dict.fromkeys(range(MAX_OBJECTS + 1))).encode()]
)
def test_a_body_of_many_objects_is_refused_while_it_is_parsed(body: bytes) -> None:
    with pytest.raises(MalformedJson):
        parse(body)


@pytest.mark.parametrize(
    "wrong",
    [
        {"types": ["x"] * 200_000, "url": "https://example.org"},
        {"types": [[]] * 200_000, "url": "https://example.org"},
        {f"field_{n}": 1 for n in range(9000)},
    ],
    ids=["strings", "lists", "fields"],
)
def test_a_thousand_faults_cost_no_more_than_a_few(serve: Serve, site: Site, wrong: dict[str, object]) -> None:
    answer = serve(key=site.admin).post("/webhooks", json=wrong)
    assert answer.status_code == 422
    assert len(answer.json()["errors"]) <= 20


def test_a_method_of_many_parts_is_refused_without_being_masked(serve: Serve, site: Site) -> None:
    answer = serve(key=site.admin).post(
        "/unlearn-requests", json=GOOD | {"method": {"kind": [f"person-{n}" for n in range(10_000)]}}
    )
    assert (answer.status_code, answer.json()["errors"][0]["pointer"]) == (422, "/method")
    assert "person" not in answer.text


@pytest.mark.parametrize(
    ("path", "method", "body"),
    [
        ("/unlearn-requests", "POST", GOOD | {"expedite": 1}),
        ("/unlearn-requests", "POST", GOOD | {"expedite": "true"}),
        ("/models/triage", "PATCH", {"approve_jobs": 0}),
        ("/models/triage", "PATCH", {"approve_versions": "no"}),
    ],
)
def test_a_boolean_is_true_or_false(serve: Serve, site: Site, path: str, method: str, body: dict[str, object]) -> None:
    assert serve(key=site.admin).request(method, path, json=body).status_code == 422
