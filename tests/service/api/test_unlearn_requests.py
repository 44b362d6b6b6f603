import math
import threading
from datetime import UTC, datetime, timedelta
from queue import Queue
from typing import Any
from uuid import UUID

import httpx
import pytest
import redis
from sqlalchemy import func, select, update
from sqlalchemy.orm import Session, sessionmaker

from ledger.registry.references import ReferenceFile, register_references
from ledger.tables import Base, IdempotencyKey, Model, ReferenceSet, UnlearnRequest
from service import wakeups
from tests.fixtures.waiting import PATIENCE
from tests.service.conftest import Serve, Site, fail_job, publish_job, set_up

ASKED = {"dataset": "scans", "sample_ids": ["sample-1", "sample-2"]}


def rows(sessions: sessionmaker[Session]) -> dict[str, int]:
    """How many rows each table has."""
    with sessions() as session:
        return {t.name: session.scalar(select(func.count()).select_from(t)) or 0 for t in Base.metadata.sorted_tables}


def test_a_request_is_recorded_before_the_answer_leaves(
    serve: Serve, site: Site, sessions: sessionmaker[Session]
) -> None:
    answer = serve(key=site.admin).post("/unlearn-requests", json=ASKED)

    assert answer.status_code == 202
    body = answer.json()
    assert answer.headers["location"] == f"/unlearn-requests/{body['id']}"
    assert int(answer.headers["retry-after"]) > 0
    with sessions() as session:
        assert str(session.scalars(select(UnlearnRequest.id)).one()) == body["id"]


def test_the_answer_says_which_job_it_joined_when_that_starts_and_why(serve: Serve, site: Site) -> None:
    client = serve(key=site.admin, batch_window_seconds=600)

    first, second = (client.post("/unlearn-requests", json=ASKED).json()["targets"] for _ in range(2))

    (target,) = first
    assert target["model"] == "triage"
    assert target["samples"] == {"accepted": 2, "already_erased": 0, "not_in_training_set": 0}
    assert target["job"]["cut_off_reason"] == "window"
    assert second[0]["job"]["id"] == target["job"]["id"]


def test_the_legal_clock_runs_from_when_the_person_asked(serve: Serve, site: Site) -> None:
    client = serve(key=site.admin)

    body = client.post("/unlearn-requests", json=ASKED | {"received_at": "2026-01-31T09:00:00+01:00"}).json()

    assert body["received_at"] == "2026-01-31T08:00:00Z"
    assert body["due_at"] == "2026-02-28T08:00:00Z"


def test_unknown_ids_do_not_fail_the_rest_and_are_listed(serve: Serve, site: Site) -> None:
    asked = ASKED | {"sample_ids": ["sample-1", "sample-1", "sample-99", "never-heard-of"]}

    body = serve(key=site.admin).post("/unlearn-requests", json=asked).json()

    assert body["samples"] == {"accepted": 1, "already_erased": 0, "not_in_training_set": 2}
    assert body["unmatched_sample_ids"] == ["never-heard-of", "sample-99"]


def test_a_key_that_may_not_read_does_not_learn_who_is_in_a_training_set(serve: Serve, site: Site) -> None:
    asked = ASKED | {"sample_ids": ["sample-1", "sample-99"]}

    body = serve(key=site.writer).post("/unlearn-requests", json=asked).json()

    assert body["samples"] is None
    assert body["unmatched_sample_ids"] is None
    assert (body["state"], body["targets"], body["unserved"]) == (None, [], None)


def test_no_sample_id_is_stored(serve: Serve, site: Site, sessions: sessionmaker[Session]) -> None:
    asked = ASKED | {"sample_ids": ["sample-1", "never-heard-of"]}
    serve(key=site.admin).post("/unlearn-requests", json=asked, headers={"Idempotency-Key": "k"})

    with sessions() as session:
        for table in Base.metadata.sorted_tables:
            assert "sample-1" not in str(session.execute(select(table)).all()), table.name
            assert "never-heard-of" not in str(session.execute(select(table)).all()), table.name


def test_a_method_is_kept_with_its_parameters(serve: Serve, site: Site) -> None:
    client = serve(key=site.admin)

    body = client.post("/unlearn-requests", json=ASKED | {"method": {"kind": "ieu", "steps": 3}}).json()

    job = client.get(f"/jobs/{body['targets'][0]['job']['id']}").json()
    assert (job["method"]["kind"], job["method"]["steps"]) == ("ieu", 3)
    assert body["method"] == job["method"]


def test_auto_names_no_method_and_leaves_the_choice_to_the_policy(serve: Serve, site: Site) -> None:
    client = serve(key=site.admin)
    body = client.post("/unlearn-requests", json=ASKED | {"method": "auto"}).json()

    assert body["method"] is None
    job = client.get(f"/jobs/{body['targets'][0]['job']['id']}").json()
    assert job["method"] == client.get("/models/triage").json()["policy"][0]


def test_a_method_that_needs_what_a_model_lacks_is_refused_in_preview_and_request_with_the_reason(
    serve: Serve, site: Site, sessions: sessionmaker[Session]
) -> None:
    client = serve(key=site.admin)
    refused: dict[str, str] = {}

    def ask(path: str, method: str) -> int:
        answer = client.post(path, json=ASKED | {"method": method})
        if answer.status_code == 422:
            assert answer.json()["type"].endswith("/method-unsuitable")
            refused[method] = answer.json()["detail"]
        return answer.status_code

    assert ask("/unlearn-requests:preview", "certified") == 200  # of this model it is not known
    with sessions.begin() as session:
        session.execute(update(Model).values(lacks=["whole_model", "adapters"]))
    for path in ("/unlearn-requests:preview", "/unlearn-requests"):
        assert [ask(path, method) for method in ("ltu", "certified", "matching", "rewind")] == [422] * 4
    assert client.get("/unlearn-requests").json()["items"] == []
    assert "'triage'" in refused["ltu"]
    assert "sharded" in refused["ltu"]
    assert "reference predictions" in refused["matching"]
    assert "slices" in refused["rewind"]
    assert client.get("/models/triage").json()["lacks"] == ["whole_model", "adapters"]
    assert ask("/unlearn-requests", "ieu") == 202
    with sessions.begin() as session:
        row = ReferenceSet(model_id=session.scalar(select(Model.id)), sha256="0" * 64, path="nowhere", details={})
        session.add(row)
        session.execute(update(Model).values(details={"checkpoints": [{"slice": 0}]}))
    assert [ask("/unlearn-requests:preview", method) for method in ("matching", "rewind")] == [200, 200]


def test_a_due_job_wakes_the_worker_after_the_commit(serve: Serve, site: Site, broker_url: str) -> None:
    client = serve(key=site.admin, broker=broker_url, batch_window_seconds=0)
    with redis.Redis.from_url(broker_url) as queue:
        queue.flushall()

        client.post("/unlearn-requests", json=ASKED)

        kind_and_message = queue.blpop(["celery"], timeout=PATIENCE)
    assert b"expunge.run_job" in kind_and_message[1]
    assert b"sample-1" not in kind_and_message[1]


def test_whether_a_job_takes_no_more_requests_is_decided_by_the_databases_clock(
    site: Site, database_an_hour_ahead: None, serve: Serve, broker_url: str
) -> None:
    client = serve(key=site.admin, broker=broker_url, batch_window_seconds=0, alone=True)  # with new connections
    with redis.Redis.from_url(broker_url) as queue:
        queue.flushall()

        job = client.post("/unlearn-requests", json=ASKED).json()["targets"][0]["job"]

        assert datetime.fromisoformat(job["cut_off"]) > datetime.now(UTC) + timedelta(minutes=50)
        assert job["id"].encode() in queue.blpop(["celery"], timeout=PATIENCE)[1]


def test_a_request_is_answered_before_its_wakeup_is_sent(
    serve: Serve, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that a slow or absent broker neither fails nor delays a request."""
    answered = threading.Event()
    in_order: Queue[bool] = Queue()

    def send(broker: object, job_ids: object) -> set[UUID]:
        in_order.put(answered.wait(PATIENCE))
        return set()

    monkeypatch.setattr(wakeups, "send", send)
    client = serve(key=site.admin, batch_window_seconds=0)
    assert client.post("/unlearn-requests", json=ASKED).status_code == 202
    answered.set()
    assert in_order.get(timeout=PATIENCE)


def test_a_preview_writes_nothing(serve: Serve, site: Site, sessions: sessionmaker[Session]) -> None:
    client = serve(key=site.admin, batch_window_seconds=600)
    before = rows(sessions)

    preview = client.post("/unlearn-requests:preview", json=ASKED)

    assert preview.status_code == 200
    assert rows(sessions) == before
    (target,) = preview.json()["targets"]
    assert (target["model"], target["samples"]["accepted"]) == ("triage", 2)
    assert (target["job"]["id"], target["job"]["cut_off_reason"]) == (None, "window")
    assert preview.json()["unmatched_sample_ids"] == []
    assert [method["kind"] for method in target["methods"]] == [
        spec["kind"] for spec in client.get("/models/triage").json()["policy"]
    ]


def test_a_preview_says_how_likely_a_verdict_is(serve: Serve, site: Site, sessions: sessionmaker[Session]) -> None:
    client = serve(key=site.admin)
    assert client.post("/unlearn-requests:preview", json=ASKED).json()["targets"][0]["verdict_chance"] is None
    with sessions.begin() as session:
        register_references(
            session,
            tenant_id=site.tenant_id,
            model="triage",
            file=ReferenceFile(sha256="0" * 64, path="0.safetensors"),
            details={"power_by_size": {"1": 0.5, "10": 0.9}, "samples_needed": 10},
        )

    (target,) = client.post("/unlearn-requests:preview", json=ASKED).json()["targets"]

    assert target["verdict_chance"] == {
        "samples": 2,
        "probability": pytest.approx(0.5 + 0.4 * math.log10(2)),
        "samples_needed": 10,
    }


@pytest.mark.parametrize("escalate", ["never", "always", None])
def test_a_request_says_when_its_jobs_escalate(serve: Serve, site: Site, escalate: str | None) -> None:
    client = serve(key=site.admin)
    key = {"Idempotency-Key": "the-same"}
    asked = ASKED if escalate is None else {**ASKED, "escalate": escalate}
    answer = client.post("/unlearn-requests", json=asked, headers=key)
    assert (answer.status_code, answer.json()["escalate"]) == (202, escalate)
    job = client.get(f"/jobs/{answer.json()['targets'][0]['job']['id']}").json()
    assert job["escalate"] == (escalate or "when_it_can_help")
    other = {**ASKED, "escalate": "when_it_can_help"}
    assert client.post("/unlearn-requests", json=other, headers=key).status_code == 422


def test_a_key_that_may_not_read_gets_no_preview(serve: Serve, site: Site) -> None:
    answer = serve(key=site.writer).post("/unlearn-requests:preview", json=ASKED)

    assert (answer.status_code, answer.json()["type"]) == (403, "https://expunge.dev/problems/scope-missing")
    assert "requests:read" in answer.json()["detail"]


def test_a_preview_names_the_open_job_it_would_join(serve: Serve, site: Site) -> None:
    client = serve(key=site.admin, batch_window_seconds=600)
    job = client.post("/unlearn-requests", json=ASKED).json()["targets"][0]["job"]["id"]

    preview = client.post("/unlearn-requests:preview", json=ASKED).json()

    assert preview["targets"][0]["job"]["id"] == job


def test_a_preview_says_how_long_it_would_take_and_whether_that_is_in_time(serve: Serve, site: Site) -> None:
    client = serve(key=site.admin, batch_window_seconds=0)
    long_ago = (datetime.now(UTC) - timedelta(days=60)).isoformat()

    (today,) = client.post("/unlearn-requests:preview", json=ASKED).json()["targets"]
    (late,) = client.post("/unlearn-requests:preview", json=ASKED | {"received_at": long_ago}).json()["targets"]

    assert (today["estimate"]["seconds"], today["estimate"]["source"]) == (60.0, "training")
    assert today["estimate"]["low_seconds"] < 60 < today["estimate"]["high_seconds"]
    assert (today["meets_deadline"], late["meets_deadline"]) == (True, False)


def test_a_deadline_is_extended_once_for_a_reason(serve: Serve, site: Site) -> None:
    client = serve(key=site.admin)
    asked = ASKED | {"received_at": f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}"}
    location = client.post("/unlearn-requests", json=asked).headers["location"]
    before = datetime.fromisoformat(client.get(location).json()["due_at"])

    blank = [client.post(location + ":extend", json={"reason": text}) for text in ("", "  ", "\x1f", "\x85", "\ufeff")]
    first, again = (client.post(location + ":extend", json={"reason": "Many models."}) for _ in range(2))

    assert {(answer.status_code, answer.json()["errors"][0]["pointer"]) for answer in blank} == {(422, "/reason")}
    assert (first.status_code, first.json()["extension_reason"]) == (200, "Many models.")
    extended = datetime.fromisoformat(first.json()["due_at"])
    assert timedelta(days=58) < extended - before < timedelta(days=63)
    assert (again.status_code, again.json()["type"]) == (409, "https://expunge.dev/problems/too-late")
    assert serve(key=site.reader).post(location + ":extend", json={"reason": "x"}).status_code == 403


def test_requests_are_listed_in_pages_with_filters(serve: Serve, site: Site) -> None:
    client = serve(key=site.admin)
    ids = [client.post("/unlearn-requests", json=ASKED).json()["id"] for _ in range(5)]

    seen: list[str] = []
    cursor: str | None = None
    while True:
        page = client.get("/unlearn-requests", params={"limit": 2} | ({"cursor": cursor} if cursor else {})).json()
        seen += [item["id"] for item in page["items"]]
        cursor = page["next_cursor"]
        if cursor is None:
            break

    assert seen == ids[::-1]

    def count(**filters: str) -> int:
        return len(client.get("/unlearn-requests", params=filters).json()["items"])

    assert count(state="scheduled") == 5
    assert count(state="completed") == 0
    assert count(model="triage") == 5
    assert count(due_before="2020-01-01T00:00:00Z") == 0
    assert count(due_before="2020-01-01T00:00:00+01:00") == 0  # httpx writes %2B
    (fault,) = client.get("/unlearn-requests?due_before=2020-01-01T00:00:00+01:00").json()["errors"]
    assert (fault["in"], fault["name"]) == ("query", "due_before")
    assert "%2B" in fault["detail"]


def test_an_open_request_says_when_to_ask_again(serve: Serve, site: Site) -> None:
    client = serve(key=site.admin)
    location = client.post("/unlearn-requests", json=ASKED).headers["location"]

    answer = client.get(location)

    assert answer.json()["state"] == "scheduled"
    assert int(answer.headers["retry-after"]) > 0
    assert client.get(location + "/events").json()["items"][0]["kind"] == "request.received"


def test_another_tenant_cannot_see_it(serve: Serve, site: Site, sessions: sessionmaker[Session]) -> None:
    location = serve(key=site.admin).post("/unlearn-requests", json=ASKED).headers["location"]
    with sessions.begin() as session:
        other = set_up(session, "bank")
    client = serve(key=other.admin)

    assert client.get(location).status_code == 404
    assert client.get(location + "/events").status_code == 404
    assert client.get("/unlearn-requests").json()["items"] == []


def test_the_same_key_with_the_same_body_gives_the_first_answer_again(
    serve: Serve, site: Site, sessions: sessionmaker[Session]
) -> None:
    client = serve(key=site.admin)
    same = ASKED | {"sample_ids": ["sample-2", "sample-1", "sample-1"]}

    first, again = (
        client.post("/unlearn-requests", json=body, headers={"Idempotency-Key": "abc"}) for body in (ASKED, same)
    )

    assert again.status_code == 202
    assert again.json() == first.json()
    assert rows(sessions)["unlearn_requests"] == 1


@pytest.mark.parametrize("change", [{"sample_ids": ["sample-3"]}, {"method": "ieu"}, {"expedite": True}])
def test_the_same_key_with_another_body_is_refused(serve: Serve, site: Site, change: dict[str, Any]) -> None:
    client = serve(key=site.admin)
    client.post("/unlearn-requests", json=ASKED, headers={"Idempotency-Key": "abc"})

    answer = client.post("/unlearn-requests", json=ASKED | change, headers={"Idempotency-Key": "abc"})

    assert (answer.status_code, answer.json()["type"]) == (422, "https://expunge.dev/problems/idempotency-key-reused")


def test_of_many_sent_at_once_with_one_key_one_is_recorded(
    serve: Serve, site: Site, sessions: sessionmaker[Session]
) -> None:
    client = serve(key=site.admin)
    answers: list[httpx.Response] = []

    def post() -> None:
        answers.append(client.post("/unlearn-requests", json=ASKED, headers={"Idempotency-Key": "abc"}))

    threads = [threading.Thread(target=post) for _ in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert {answer.status_code for answer in answers} <= {202, 409}
    assert len({answer.json()["id"] for answer in answers if answer.status_code == 202}) == 1
    assert rows(sessions)["unlearn_requests"] == 1


def test_more_callers_than_connections_are_all_served(
    serve: Serve, site: Site, sessions: sessionmaker[Session]
) -> None:
    client = serve(key=site.admin)
    statuses: list[int] = []

    def post() -> None:
        statuses.append(client.post("/unlearn-requests", json=ASKED).status_code)

    threads = [threading.Thread(target=post) for _ in range(80)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert statuses == [202] * 80


def test_a_request_can_be_withdrawn_while_its_job_waits(serve: Serve, site: Site) -> None:
    client = serve(key=site.admin, batch_window_seconds=600)
    location = client.post("/unlearn-requests", json=ASKED).headers["location"]

    first, again = (client.post(location + ":cancel") for _ in range(2))

    assert (first.status_code, first.json()["state"]) == (200, "cancelled")
    assert (again.status_code, again.json()["state"]) == (200, "cancelled")


def test_a_published_request_cannot_be_withdrawn(serve: Serve, site: Site, sessions: sessionmaker[Session]) -> None:
    client = serve(key=site.admin, batch_window_seconds=0)
    answer = client.post("/unlearn-requests", json=ASKED)
    publish_job(sessions, answer.json()["targets"][0]["job"]["id"])

    refusal = client.post(answer.headers["location"] + ":cancel")

    assert (refusal.status_code, refusal.json()["type"]) == (409, "https://expunge.dev/problems/too-late")
    assert "completed" in refusal.json()["detail"]


def test_a_finished_request_names_version_report_and_verdict(
    serve: Serve, site: Site, sessions: sessionmaker[Session]
) -> None:
    client = serve(key=site.admin, batch_window_seconds=0)
    answer = client.post("/unlearn-requests", json=ASKED)
    report_id = publish_job(sessions, answer.json()["targets"][0]["job"]["id"])

    finished = client.get(answer.headers["location"])

    assert finished.json()["state"] == "completed"
    assert "retry-after" not in finished.headers
    (target,) = finished.json()["targets"]
    assert (target["version"], target["report_id"], target["verdict"]) == (2, str(report_id), "verified")
    again = client.post("/unlearn-requests", json=ASKED).json()
    assert (again["state"], again["samples"]["already_erased"]) == ("completed", 2)


def test_an_unchanged_request_is_not_sent_again(serve: Serve, site: Site) -> None:
    client = serve(key=site.admin)
    path = f"/unlearn-requests/{client.post('/unlearn-requests', json=ASKED).json()['id']}"
    tag = client.get(path).headers["ETag"]
    same = client.get(path, headers={"If-None-Match": tag})
    assert (same.status_code, same.content, same.headers["Retry-After"]) == (304, b"", "5")
    client.post(f"{path}:cancel")
    assert client.get(path, headers={"If-None-Match": tag}).json()["state"] == "cancelled"


def test_what_is_overdue_and_what_is_soon_due_is_listed(serve: Serve, site: Site) -> None:
    client = serve(key=site.admin)

    def ask(number: int, days: int) -> str:
        received_at = (datetime.now(UTC) - timedelta(days=days)).isoformat()
        body = {"dataset": "scans", "sample_ids": [f"sample-{number}"], "received_at": received_at}
        return str(client.post("/unlearn-requests", json=body).json()["id"])

    def listed(**query: object) -> list[str]:
        return [item["id"] for item in client.get("/unlearn-requests", params=query).json()["items"]]  # type: ignore[arg-type]

    late, soon, later, done = ask(1, 40), ask(2, 25), ask(3, 1), ask(4, 50)
    client.post(f"/unlearn-requests/{done}:cancel")
    assert listed(overdue=True) == [late]
    assert listed(open=True, due_before=(datetime.now(UTC) + timedelta(days=10)).isoformat()) == [soon, late]
    assert listed(open=False) == [done]
    assert listed(open=True) == [later, soon, late]


def test_an_idempotency_key_of_the_version_before_is_still_known(
    serve: Serve, site: Site, sessions: sessionmaker[Session]
) -> None:
    asked = ASKED | {"received_at": "2026-01-31T09:00:00+01:00", "external_id": "E"}
    serve(key=site.admin).post("/unlearn-requests", json=asked, headers={"Idempotency-Key": "k"})

    with sessions() as session:
        fingerprint = session.scalars(select(IdempotencyKey.body_sha256)).one()
    assert fingerprint == "cde0c5aa8ca1f5500906276df485915f5582367d7c5f29d65241ac9c816a6147"


def test_a_failed_request_is_listed_as_overdue_until_an_admin_dismisses_it(
    serve: Serve, site: Site, sessions: sessionmaker[Session]
) -> None:
    received_at = (datetime.now(UTC) - timedelta(days=40)).isoformat()
    client = serve(key=site.admin)
    asked = client.post("/unlearn-requests", json=ASKED | {"received_at": received_at, "expedite": True}).json()
    fail_job(sessions, asked["targets"][0]["job"]["id"])
    path = f"/unlearn-requests/{asked['id']}"

    def listed(**query: object) -> list[str]:
        return [item["id"] for item in client.get("/unlearn-requests", params=query).json()["items"]]  # type: ignore[arg-type]

    found = client.get(path).json()
    assert (found["state"], found["unserved"]) == ("failed", True)
    assert listed(overdue=True) == listed(unserved=True) == [asked["id"]]

    body = {"reason": "Art. 17(3)(b): the law requires the records."}
    assert serve(key=site.writer).post(f"{path}:dismiss", json=body).status_code == 403
    assert client.post(f"{path}:dismiss", json={"reason": "\x1f"}).status_code == 422
    answer = client.post(f"{path}:dismiss", json=body)

    assert answer.status_code == 200
    assert (answer.json()["unserved"], answer.json()["dismissal_reason"]) == (False, body["reason"])
    assert answer.json()["dismissed_by"].startswith("key:")
    assert listed(overdue=True) == listed(unserved=True) == []
    assert client.get(f"{path}/events").json()["items"][-1]["kind"] == "request.dismissed"
    refusal = client.post(f"{path}:dismiss", json=body)
    assert (refusal.status_code, refusal.json()["type"]) == (409, "https://expunge.dev/problems/too-late")
