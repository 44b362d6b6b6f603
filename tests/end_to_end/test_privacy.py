"""A request travels all the way, and no table, message, log, metric, webhook or answer holds a sample's ID or a subject."""

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from email.message import Message
from uuid import UUID

import httpx
import pytest
import redis
from standardwebhooks.webhooks import Webhook

from expunge import client
from expunge.operator.deployment import find_deployment, open_database
from expunge.operator.registration import register_workload
from expunge.operator.subjects import import_subjects
from expunge.operator.training import Trained
from expunge.stack.stack import Stack
from ledger.resources import Job
from tests.end_to_end.conftest import REFERENCE, SAMPLES
from tests.fixtures.postgresql import stored_rows
from tests.fixtures.registration import RETRAINED
from tests.fixtures.servers import answering
from tests.fixtures.waiting import await_that

pytestmark = pytest.mark.end_to_end

DATASET = "private"
UNKNOWN = "nobody-ever-heard-of-4711"
PERSON = "ann@example.org"
STRANGER = "stranger@example.org"
RECOGNISED = re.compile(r"image-\d|nobody-ever|@example|%40example")


@dataclass
class Journey:
    """What was seen of one request on its way."""

    job: Job = field(init=False)
    answers: list[str] = field(default_factory=list)
    commands: list[str] = field(default_factory=list)
    messages: list[tuple[dict[str, str], str]] = field(default_factory=list)
    secret: str = ""

    def receive(self, _method: str, _target: str, headers: Message, body: bytes) -> tuple[int, bytes]:
        """Be the endpoint of our webhooks, which the stack's settings let the beat reach."""
        self.messages.append((dict(headers.items()), body.decode()))
        return 204, b""


@pytest.fixture(scope="module")
def journey(running: Stack, http: httpx.Client, trained: Trained) -> Journey:
    """Ask for samples by name, follow the job to its result, and listen at every door."""
    seen = Journey()
    register_workload(
        find_deployment(running.folder.root),
        name=DATASET,
        reference=REFERENCE,
        weights=trained.path,
        dataset=DATASET,
        **RETRAINED,
    )
    owned = [(line, PERSON, sample) for line, sample in enumerate(SAMPLES[:20], start=2)]
    import_subjects(find_deployment(running.folder.root), dataset=DATASET, rows=owned)
    with answering(seen.receive) as url, overheard(running, seen):
        webhook = http.post("/webhooks", json={"url": f"{url}/hook"}).json()
        seen.secret = webhook["secret"]
        request = client.submit(http, dataset=DATASET, sample_ids=[*SAMPLES[20:], UNKNOWN], subjects=[PERSON, STRANGER])
        (job_id,) = client.job_ids(request)
        *_, seen.job = client.watch_job(http, job_id)
        assert seen.job.state == "completed", seen.job
        await_that(lambda: any("request.completed" in body for _, body in seen.messages), "the last webhook")
        seen.answers = list(answers(http, seen.job, request.id))
        http.delete(f"/webhooks/{webhook['id']}")
    return seen


@contextmanager
def overheard(running: Stack, seen: Journey) -> Iterator[None]:
    """Every command that the broker gets, with its arguments; and at the end every value that it still has."""
    with redis.Redis.from_url(running.settings.redis_url) as broker, broker.monitor() as monitor:

        def listen() -> None:
            with suppress(redis.RedisError, ValueError, OSError):
                for command in monitor.listen():
                    seen.commands.append(str(command["command"]))

        threading.Thread(target=listen, daemon=True).start()
        yield
        seen.commands += [(broker.dump(key) or b"").decode("latin-1") for key in broker.scan_iter()]


def answers(http: httpx.Client, job: Job, request_id: UUID) -> Iterator[str]:
    """What the API says about the request afterwards, and to bodies that it cannot take."""
    for path in (
        f"/unlearn-requests/{request_id}",
        f"/unlearn-requests/{request_id}/events",
        "/unlearn-requests",
        f"/jobs/{job.id}",
        f"/jobs/{job.id}/events",
        f"/jobs/{job.id}/attempts",
        f"/reports/{job.report_id}",
        f"/reports/{job.report_id}.html",
        f"/datasets/{DATASET}/do-not-train",
        "/metrics",
    ):
        yield http.get(path).text
    for body in (
        {"dataset": DATASET, "sample_ids": {"ids": SAMPLES}},
        {"dataset": DATASET, "sample_ids": [SAMPLES[0], 4711, SAMPLES[1] * 100]},
        {"dataset": DATASET, "sample_ids": [UNKNOWN], "method": {"kind": UNKNOWN}},
        {"dataset": DATASET, "sample_ids": [UNKNOWN], UNKNOWN: 1},
        {"dataset": DATASET, "sample_ids": [UNKNOWN]},
        {"dataset": DATASET, "subjects": [STRANGER]},
        {"dataset": DATASET, "subjects": [PERSON, 4711, STRANGER * 100]},
        {"subjects": {"people": [PERSON]}, "method": STRANGER},
    ):
        answer = http.post("/unlearn-requests", json=body)
        assert answer.status_code == 422
        yield answer.text
    yield http.post("/unlearn-requests", content=f'["{UNKNOWN}'.encode()).text
    yield http.post("/uploads/subjects", content=f"{PERSON}\n{STRANGER}\0", headers={"Content-Type": "text/plain"}).text
    upload = {"params": {"dataset": DATASET}, "headers": {"Content-Type": "application/x-ndjson"}}
    yield http.post("/uploads", content=f'"{UNKNOWN}"\n{UNKNOWN}'.encode(), **upload).text  # type: ignore[arg-type]


def traces() -> Iterator[str]:
    """What a sample's ID or a subject would leave behind if it were kept as it is, encoded, or hashed without a key."""
    for sample_id in (SAMPLES[0], SAMPLES[-1], UNKNOWN, PERSON, STRANGER):
        plain = sample_id.encode()
        yield plain.hex()
        yield base64.b64encode(plain).decode().rstrip("=")
        for digest in (hashlib.md5, hashlib.sha1, hashlib.sha256):
            yield digest(plain).hexdigest()


def found_in(kept: str) -> list[str]:
    """What of the samples is to be recognised in a text."""
    return RECOGNISED.findall(kept) + [trace for trace in traces() if trace in kept]


def test_no_table_holds_a_sample_id_in_any_form(journey: Journey, running: Stack) -> None:
    with open_database(running.settings.database_url) as sessions, sessions() as session:
        rows = stored_rows(session)
    assert len(rows["request_samples"]) > len(SAMPLES[20:])
    assert len(rows["request_subjects"]) >= 2
    for table, kept in rows.items():
        assert found_in("\n".join(kept)) == [], table


def test_no_message_to_the_workers_holds_a_sample_id(journey: Journey) -> None:
    assert any("expunge.run_job" in command for command in journey.commands)
    assert found_in("\n".join(journey.commands)) == []


def test_no_log_holds_a_sample_id(journey: Journey, running: Stack) -> None:
    for log in running.folder.logs.iterdir():
        assert found_in(log.read_text()) == [], log


def test_no_answer_about_it_holds_a_sample_id_be_it_a_problem_a_report_or_the_metrics(journey: Journey) -> None:
    for answer in journey.answers:
        assert found_in(answer) == [], answer[:300]


def test_every_webhook_message_verifies_and_holds_no_sample_id(journey: Journey) -> None:
    types = []
    for headers, body in journey.messages:
        message = Webhook(journey.secret).verify(body, headers)
        types.append(message["type"])
        assert found_in(body) == []
    assert {"request.received", "job.running", "report.published", "job.completed", "request.completed"} <= set(types)
    ids = {json.loads(body)["data"].get("job_id") for _, body in journey.messages} - {None}
    assert ids == {str(journey.job.id)}
