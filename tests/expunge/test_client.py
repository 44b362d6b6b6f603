"""The client against answers that the contract describes; the real service is met in tests/end_to_end."""

from collections.abc import Callable

import httpx
import pytest

from expunge import client
from expunge.errors import Refused, ServiceUnreachable

Handler = Callable[[httpx.Request], httpx.Response]


def answering(handler: Handler) -> httpx.Client:
    return httpx.Client(base_url="http://service", transport=httpx.MockTransport(handler))


def test_what_is_not_given_is_left_to_the_service() -> None:
    sent: list[httpx.Request] = []

    def handler(request: httpx.Request) -> httpx.Response:
        sent.append(request)
        return httpx.Response(202, json={"id": "r"})

    client.submit(answering(handler), dataset="digits", sample_ids=["a"])
    client.submit(answering(handler), dataset="digits", sample_ids=["a"])
    assert sent[0].content == b'{"dataset":"digits","sample_ids":["a"]}'
    assert sent[0].headers["Idempotency-Key"] != sent[1].headers["Idempotency-Key"]


def test_a_job_is_followed_by_its_tag_until_it_has_ended() -> None:
    answers = [
        httpx.Response(200, json={"state": "queued"}, headers={"ETag": '"1"', "Retry-After": "0"}),
        httpx.Response(304, headers={"ETag": '"1"', "Retry-After": "0"}),
        httpx.Response(503, json={"title": "Not ready"}, headers={"Retry-After": "0"}),
        httpx.Response(200, json={"state": "running"}, headers={"ETag": '"2"', "Retry-After": "0"}),
        httpx.Response(200, json={"state": "completed"}, headers={"ETag": '"3"'}),
    ]
    tags: list[str | None] = []

    def handler(request: httpx.Request) -> httpx.Response:
        tags.append(request.headers.get("If-None-Match"))
        return answers[len(tags) - 1]

    states = [job["state"] for job in client.watch_job(answering(handler), "j")]
    assert states == ["queued", "running", "completed"]
    assert tags == [None, '"1"', '"1"', '"1"', '"2"']


def test_a_problem_is_raised_with_its_title_and_detail() -> None:
    document = {"title": "Unknown dataset", "detail": "there is no dataset named 'x'", "status": 404}
    with pytest.raises(Refused, match="404 Unknown dataset: there is no dataset named 'x'") as raised:
        client.get_job(answering(lambda request: httpx.Response(404, json=document)), "j")
    assert raised.value.problem == document


def test_an_answer_that_is_no_problem_document_is_still_a_refusal() -> None:
    with pytest.raises(Refused, match="502 Bad Gateway"):
        client.get_job(answering(lambda request: httpx.Response(502, text="<html>")), "j")


def test_a_service_that_is_not_there_is_named() -> None:
    def handler(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("refused")

    with pytest.raises(ServiceUnreachable, match="Nothing answers at http://service"):
        client.get_request(answering(handler), "r")
