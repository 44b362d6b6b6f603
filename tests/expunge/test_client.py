"""The client against answers that the contract describes, and against the application; a whole stack is in tests/end_to_end."""

from collections.abc import Callable
from datetime import UTC, datetime
from uuid import UUID

import httpx
import pytest
from sqlalchemy.orm import Session, sessionmaker

from expunge import client
from expunge.cli.caller import fetch_digests
from expunge.errors import Refused, ServiceError, ServiceUnreachable
from ledger.resources import Job, SampleCounts, UnlearnRequest
from ledger.states import AttemptOutcome, ClosingReason, JobState, Phase, RequestState
from service.api.unlearn_requests import NewUnlearnRequest
from tests.service.conftest import Serve, Site, _address, fail_job, publish_job, serve, site  # noqa: F401

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
ID = UUID(int=1)
JOB = Job(
    id=ID,
    model="digits-cnn",
    dataset="digits",
    state=JobState.QUEUED,
    reason=None,
    detail=None,
    phase=Phase.WAITING,
    progress=0.0,
    step=0,
    total=0,
    eta_seconds=None,
    metrics={},
    timings={},
    attempt=1,
    method={"kind": "ltu"},
    policy=({"kind": "ltu"},),
    closes_at=NOON,
    closing_reason=ClosingReason.WINDOW,
    samples=None,
    requests=1,
    due_at=NOON,
    approved_by=None,
    approved_at=None,
    cancel_requested=False,
    base_version=None,
    version=None,
    report_id=None,
    verdict=None,
    created_at=NOON,
    started_at=None,
    finished_at=None,
    updated_at=NOON,
)
REQUEST = UnlearnRequest(
    id=ID,
    dataset="digits",
    state=RequestState.RECEIVED,
    targets=(),
    samples=SampleCounts(accepted=1, already_erased=0, not_in_training_set=0),
    method=None,
    reason=None,
    regulation="gdpr",
    received_at=NOON,
    due_at=NOON,
    unserved=True,
    extension_reason=None,
    external_id=None,
    expedite=False,
    created_at=NOON,
    finished_at=None,
    dismissed_at=None,
    dismissed_by=None,
    dismissal_reason=None,
)

Handler = Callable[[httpx.Request], httpx.Response]


def answering(handler: Handler) -> httpx.Client:
    return httpx.Client(base_url="http://service", transport=httpx.MockTransport(handler))


def job_answer(state: JobState, **headers: str) -> httpx.Response:
    return httpx.Response(200, text=JOB.model_copy(update={"state": state}).model_dump_json(), headers=headers)


def test_what_is_not_given_is_left_to_the_service() -> None:
    sent: list[httpx.Request] = []

    def handler(request: httpx.Request) -> httpx.Response:
        sent.append(request)
        return httpx.Response(202, text=REQUEST.model_dump_json())

    assert client.submit(answering(handler), dataset="digits", sample_ids=["a"]) == REQUEST
    client.submit(answering(handler), dataset="digits", sample_ids=["a"])
    assert sent[0].content == b'{"dataset":"digits","sample_ids":["a"]}'
    assert sent[0].headers["Idempotency-Key"] != sent[1].headers["Idempotency-Key"]


def test_every_field_of_a_request_can_be_given() -> None:
    """They are declared twice, because the client imports no web framework, and takes them as keywords."""
    assert client.NewRequest.__annotations__.keys() == NewUnlearnRequest.model_fields.keys()


def test_a_field_that_a_newer_service_adds_is_ignored() -> None:
    newer = {**JOB.model_dump(mode="json"), "a_new_field": 1}

    assert client.get_job(answering(lambda request: httpx.Response(200, json=newer)), ID) == JOB


def test_a_job_is_followed_by_its_tag_until_it_has_ended() -> None:
    answers = [
        job_answer(JobState.QUEUED, **{"ETag": '"1"', "Retry-After": "0"}),
        httpx.Response(304, headers={"ETag": '"1"', "Retry-After": "0"}),
        httpx.Response(503, json={"title": "Not ready"}, headers={"Retry-After": "0"}),
        job_answer(JobState.RUNNING, **{"ETag": '"2"', "Retry-After": "0"}),
        job_answer(JobState.COMPLETED, ETag='"3"'),
    ]
    tags: list[str | None] = []

    def handler(request: httpx.Request) -> httpx.Response:
        tags.append(request.headers.get("If-None-Match"))
        return answers[len(tags) - 1]

    states = [job.state for job in client.watch_job(answering(handler), ID)]
    assert states == [JobState.QUEUED, JobState.RUNNING, JobState.COMPLETED]
    assert tags == [None, '"1"', '"1"', '"1"', '"2"']


def test_a_problem_is_raised_with_its_title_and_detail() -> None:
    document = {"title": "Unknown dataset", "detail": "there is no dataset named 'x'", "status": 404}
    with pytest.raises(Refused) as raised:
        client.get_job(answering(lambda request: httpx.Response(404, json=document)), ID)
    assert (raised.value.status, raised.value.problem) == (404, document)
    assert document["detail"] in str(raised.value)


def test_a_refusal_says_what_is_wrong_and_where() -> None:
    faults = [
        {"pointer": "/method/steps", "detail": "Input should be at least 1."},
        {"in": "query", "name": "limit", "detail": "Too large."},
        {"pointer": "", "detail": "Give sample_ids, subjects or an upload."},
    ]
    document = {
        "title": "The request does not have the right shape",
        "detail": "3 faults; see errors.",
        "errors": faults,
    }
    with pytest.raises(Refused) as raised:
        client.get_job(answering(lambda request: httpx.Response(422, json=document)), ID)
    assert str(raised.value).splitlines()[1:] == [
        "- /method/steps: Input should be at least 1.",
        "- limit: Too large.",
        "- Give sample_ids, subjects or an upload.",
    ]


def test_an_answer_that_is_no_problem_document_is_still_a_refusal() -> None:
    with pytest.raises(Refused) as raised:
        client.get_job(answering(lambda request: httpx.Response(502, text="<html>")), ID)
    assert (raised.value.status, raised.value.problem) == (502, {"title": "Bad Gateway"})


def test_a_service_that_is_not_there_is_named() -> None:
    def handler(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("refused")

    with pytest.raises(ServiceUnreachable, match="http://service"):
        client.get_request(answering(handler), ID)


@pytest.mark.parametrize("address", ["127.0.0.1:8000", "service", ""])
def test_an_address_without_its_scheme_is_named_as_such(address: str) -> None:
    with pytest.raises(ServiceUnreachable, match="http://"):
        client.connect(address, "key")


@pytest.mark.parametrize(
    "answer",
    [
        httpx.Response(200, text="<html>It works!</html>"),
        httpx.Response(200, json=[]),
        httpx.Response(200, json={"items": "none"}),
    ],
)
def test_an_answer_of_another_service_is_an_error_that_says_so(answer: httpx.Response) -> None:
    http = answering(lambda request: answer)
    calls: list[Callable[[], object]] = [
        lambda: client.get_job(http, ID),
        lambda: client.list_models(http),
        lambda: client.submit(http, dataset="d", sample_ids=["a"]),
        lambda: client.upload_samples(http, dataset="d", sample_ids=["a"]),
        lambda: next(client.watch_job(http, ID)),
        lambda: client.fetch_json(http, "GET", "/log/leaves", fields=["leaves"]),
    ]
    for call in calls:
        with pytest.raises(ServiceError, match="service is not Expunge's API"):
            call()


def test_an_address_that_sends_on_is_not_followed_but_named() -> None:
    moved = httpx.Response(308, headers={"Location": "https://service/models"})
    with pytest.raises(ServiceUnreachable, match="sends on to https://service/models"):
        client.list_models(answering(lambda request: moved))
    with pytest.raises(
        ServiceUnreachable, match="sends on to https://service/models"
    ):  # an empty list would let all pass
        fetch_digests(answering(lambda request: moved), "/datasets/digits/do-not-train", hashed_under=bytes(32))


def test_a_page_that_is_no_list_of_digests_is_named_as_such() -> None:
    page = httpx.Response(200, text="<html>Sign in</html>")
    with pytest.raises(ServiceError, match="service is not Expunge's API"):
        fetch_digests(answering(lambda request: page), "/datasets/digits/do-not-train", hashed_under=bytes(32))


def test_a_stack_on_this_machine_is_not_asked_through_a_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    """It would be asked for the key's own machine, and with the key."""
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)

    def pool(address: str) -> str:
        with client.connect(address, "expunge_x") as http:
            transport = http._transport_for_url(http.base_url)
            return type(transport._pool).__name__  # type: ignore[attr-defined]  # of an HTTPTransport

    assert pool("http://service.example") == "HTTPProxy"
    assert {pool(f"http://{host}:8000") for host in ("127.0.0.1", "localhost", "[::1]")} == {"ConnectionPool"}


def test_every_call_does_what_it_says(serve: Serve, site: Site, sessions: sessionmaker[Session]) -> None:  # noqa: F811
    http = serve(key=site.admin)
    preview = client.preview(http, dataset="scans", sample_ids=["sample-1", "nobody"])
    assert (preview.samples.accepted, preview.unmatched_sample_ids) == (1, ["nobody"])

    first = client.submit(http, dataset="scans", sample_ids=["sample-1"], expedite=True)
    (job_id,) = client.job_ids(first)
    publish_job(sessions, job_id)
    assert client.list_events(http, job_id)[-1].kind == "job.completed"
    assert client.list_events(http, job_id, after=client.list_events(http, job_id)[-1].id) == []
    assert [attempt.outcome for attempt in client.list_attempts(http, job_id)] == [AttemptOutcome.PUBLISHED]
    assert [version.number for version in client.list_versions(http, "triage")] == [2, 1]
    assert client.list_models(http)[0].version.number == 2
    assert client.list_datasets(http)[0].samples == 100
    assert client.get_signing_keys(http) == []

    second = client.submit(http, dataset="scans", sample_ids=["sample-2"])
    assert client.extend_request(http, second.id, reason="Many models.").extension_reason == "Many models."
    assert client.cancel_request(http, second.id).state == RequestState.CANCELLED
    assert [found.id for found in client.list_requests(http, model="triage")] == [second.id, first.id]
    assert [job.id for job in client.list_jobs(http, state="completed")] == [job_id]

    owed = client.submit(http, dataset="scans", sample_ids=["sample-4"], expedite=True)
    fail_job(sessions, client.job_ids(owed)[0])
    assert [found.id for found in client.list_requests(http, unserved=True)] == [owed.id]
    assert client.dismiss_request(http, owed.id, reason="Kept by law.").dismissal_reason == "Kept by law."
    assert [*client.list_requests(http, unserved=True)] == []

    third = client.submit(http, dataset="scans", sample_ids=["sample-3"], expedite=True)
    assert client.cancel_job(http, client.job_ids(third)[0]).state == JobState.CANCELLED
    with pytest.raises(Refused) as refused:
        client.retry_job(http, job_id)
    assert refused.value.status == 409


def test_a_list_is_read_over_all_of_its_pages(serve: Serve, site: Site) -> None:  # noqa: F811
    http = serve(key=site.admin)
    made = [client.submit(http, dataset="scans", sample_ids=[f"sample-{i}"]).id for i in range(5)]
    http.params = http.params.set("limit", "2")

    assert [request.id for request in client.list_requests(http)] == made[::-1]
