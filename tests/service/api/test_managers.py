"""A request manager that the operator has declared, over HTTP."""

from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import func, select
from sqlalchemy.orm import Session, sessionmaker

from ledger.registry.subjects import assign_subjects
from ledger.sample_ids import sample_digest, subject_digest
from ledger.tables import ManagedRequest, Target, UnlearnRequest
from tests.connectors.test_managers import PORTAL, write
from tests.service.conftest import SAMPLE_KEY, Serve, Site, fail_job, publish_job

KEY = bytes.fromhex(SAMPLE_KEY)
CALLS = "/managers/portal/requests"


@pytest.fixture(scope="session")
def declared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("managers"), PORTAL + 'received_at = "/asked"\nquiet_hours = 0\n')


@pytest.fixture
def http(serve: Serve, site: Site, declared: Path, sessions: sessionmaker[Session]) -> httpx.Client:
    """An admin of the site, where a trained sample belongs to ann."""
    rows = [(subject_digest(KEY, "ann@example.org"), sample_digest(KEY, "scans", "sample-1"), 1)]
    with sessions.begin() as session:
        assign_subjects(session, tenant_id=site.tenant_id, dataset="scans", rows=rows)
    return serve(key=site.admin, managers=declared, batch_window_seconds=0)


def asked(email: str = "Ann@example.org", number: int = 1, **more: object) -> dict[str, Any]:
    return {
        "request": {"id": f"DSR-{number}", "type": "ERASURE"},
        "person": {"emails": [email]},
        "asked": "2026-01-31T15:00:00Z",
        **more,
    }


def state(http: httpx.Client, number: int = 1) -> object:
    answer = http.get(f"{CALLS}/DSR-{number}")
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_a_request_in_the_managers_form_leads_to_an_erasure(
    http: httpx.Client, sessions: sessionmaker[Session]
) -> None:
    answer = http.post(CALLS, json=asked())
    assert (answer.status_code, answer.headers["Location"]) == (202, f"{CALLS}/DSR-1")
    assert answer.json() == state(http) == {"id": "DSR-1", "state": "WAITING"}
    with sessions() as session:
        job_id = session.scalars(select(Target.job_id)).one()
        request = session.scalars(select(UnlearnRequest)).one()
        assert (request.external_id, request.due_at.isoformat()) == ("DSR-1", "2026-02-28T15:00:00+00:00")
    assert job_id is not None
    publish_job(sessions, job_id)
    assert state(http) == {"id": "DSR-1", "state": "DONE"}


def test_a_stranger_is_accepted_and_a_replay_is_recorded_once(
    http: httpx.Client, sessions: sessionmaker[Session]
) -> None:
    for _ in range(2):
        assert http.post(CALLS, json=asked("stranger@example.org")).status_code == 202
    assert http.post(CALLS, json=asked("another@example.org")).json()["type"].endswith("/idempotency-key-reused")
    assert state(http) == {"id": "DSR-1", "state": "DONE"}
    with sessions() as session:
        assert session.scalar(select(func.count()).select_from(ManagedRequest)) == 1


def test_a_reference_with_signs_of_addresses_in_it_is_found_where_the_answer_says(http: httpx.Client) -> None:
    body = asked() | {"request": {"id": "DSR?1#2%3F&x", "type": "ERASURE"}}
    answer = http.post(CALLS, json=body)
    assert answer.status_code == 202
    assert http.get(answer.headers["Location"]).json()["id"] == "DSR?1#2%3F&x"


def test_a_reference_that_no_text_of_the_database_can_be_is_the_callers_fault(http: httpx.Client) -> None:
    for call in (http.get, http.delete):
        answer = call(f"{CALLS}/DSR%001")
        assert (answer.status_code, answer.json()["errors"][0]["name"]) == (422, "reference")


def test_a_body_that_no_manager_sends_is_refused_by_its_size(http: httpx.Client) -> None:
    answer = http.post(CALLS, json=asked(padding="x" * 256 * 1024))
    assert (answer.status_code, answer.json()["type"].rpartition("/")[2]) == (413, "body-too-large")


def test_a_failure_is_in_progress_and_a_withdrawal_is_cancelled(
    http: httpx.Client, sessions: sessionmaker[Session]
) -> None:
    http.post(CALLS, json=asked())
    with sessions() as session:
        job_id = session.scalars(select(Target.job_id)).one()
    assert job_id is not None
    fail_job(sessions, job_id)
    assert state(http) == {"id": "DSR-1", "state": "in_progress"}
    assert http.delete(f"{CALLS}/DSR-1").status_code == 409
    http.post(CALLS, json=asked(number=2))
    assert http.delete(f"{CALLS}/DSR-2").json() == state(http, 2) == {"id": "DSR-2", "state": "cancelled"}


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (asked(request={"id": "DSR-1", "type": "ACCESS"}), "/request/type must be ERASURE or DELETE"),
        (asked(asked="yesterday"), "/asked must be a time"),
        (asked(asked="2099-01-31T15:00:00Z"), "must not be in the future"),
        (asked(person={}), "no text at /person/emails/0"),
        (asked("a" * 201), "too long"),
        ([], "object"),
    ],
)
def test_bad_input_is_refused_and_recorded_nowhere(
    http: httpx.Client, sessions: sessionmaker[Session], body: object, said: str
) -> None:
    answer = http.post(CALLS, json=body)
    assert answer.status_code == 422
    assert said in answer.text
    assert "example.org" not in answer.text
    with sessions() as session:
        assert session.scalar(select(func.count()).select_from(ManagedRequest)) == 0


def test_there_is_no_manager_that_was_not_declared(http: httpx.Client, serve: Serve, site: Site) -> None:
    assert http.post("/managers/other/requests", json=asked()).status_code == 404
    assert serve(key=site.admin).post(CALLS, json=asked()).status_code == 404


def test_a_key_needs_the_scopes_of_the_api(serve: Serve, site: Site, http: httpx.Client, declared: Path) -> None:
    http.post(CALLS, json=asked())
    assert serve(key=site.reader, managers=declared).post(CALLS, json=asked()).status_code == 403
    assert serve(key=site.writer, managers=declared).get(f"{CALLS}/DSR-1").status_code == 403
