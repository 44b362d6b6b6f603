"""OpenDSR over HTTP, as a customer data platform calls it: signed answers, statuses, and nothing that tells who is known."""

import base64
import json
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest
from sqlalchemy import func, select, text
from sqlalchemy.orm import Session, sessionmaker

from ledger.registry.subjects import assign_subjects
from ledger.sample_ids import sample_digest, subject_digest
from ledger.sample_key import rotate_sample_key
from ledger.tables import ManagedRequest, Target, UnlearnRequest
from tests.fixtures.opendsr import DOMAIN, declare, verify
from tests.fixtures.postgresql import stored_rows
from tests.service.conftest import SAMPLE_KEY, Serve, Site, fail_job, publish_job

KEY = bytes.fromhex(SAMPLE_KEY)
CALLS = "/opendsr/v2"
ANN, STRANGER = "ann@example.org", "stranger@example.org"


@pytest.fixture(scope="session")
def declared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return declare(tmp_path_factory.mktemp("opendsr"))


@pytest.fixture
def people(site: Site, sessions: sessionmaker[Session]) -> Site:
    """The site, where two trained samples belong to ann."""
    rows = [(subject_digest(KEY, ANN), sample_digest(KEY, "scans", f"sample-{number}"), 1) for number in (1, 2)]
    with sessions.begin() as session:
        assign_subjects(session, tenant_id=site.tenant_id, dataset="scans", rows=rows)
    return site


@pytest.fixture
def http(serve: Serve, people: Site, declared: Path) -> httpx.Client:
    return serve(key=people.admin, opendsr=declared, batch_window_seconds=0)


def named(kind: str, value: str, form: str = "raw") -> dict[str, Any]:
    return {"subject_identities": [{"identity_type": kind, "identity_value": value, "identity_format": form}]}


def asked(person: str = ANN, **more: object) -> dict[str, Any]:
    return {
        "regulation": "gdpr",
        "subject_request_id": str(uuid4()),
        "subject_request_type": "erasure",
        "submitted_time": "2026-01-31T15:00:00Z",
        **named("email", person),
        "api_version": "2.0",
        "extensions": {"example-other-processor.com": {"property_id": "123456"}},
        **more,
    }


def status(http: httpx.Client, body: dict[str, Any]) -> dict[str, Any]:
    answer = http.get(f"{CALLS}/requests/{body['subject_request_id']}")
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


def only_job(sessions: sessionmaker[Session]) -> Any:
    with sessions() as session:
        return session.scalars(select(Target.job_id)).one()


def test_a_request_is_answered_as_the_specification_says_and_leads_to_an_erasure(
    http: httpx.Client, sessions: sessionmaker[Session], people: Site
) -> None:
    sent = json.dumps(asked("Ann@Example.org")).encode()
    body = json.loads(sent)
    answer = http.post(f"{CALLS}/requests", content=sent, headers={"Content-Type": "application/json"})
    assert answer.status_code == 201, answer.text
    given = answer.json()
    assert base64.b64decode(given.pop("encoded_request")) == sent
    assert given.pop("received_time").endswith("Z")
    assert given == {
        "controller_id": str(people.tenant_id),
        "expected_completion_time": "2026-02-28T15:00:00Z",
        "subject_request_id": body["subject_request_id"],
    }
    assert status(http, body)["request_status"] == "pending"
    publish_job(sessions, only_job(sessions))
    assert status(http, body) == {
        "controller_id": str(people.tenant_id),
        "expected_completion_time": "2026-02-28T15:00:00Z",
        "subject_request_id": body["subject_request_id"],
        "request_status": "completed",
        "api_version": "2.0",
        "results_url": None,
        "extensions": None,
    }


def test_every_answer_is_signed_for_the_domain_refusals_too(http: httpx.Client) -> None:
    body = asked()
    certificates = http.get(f"{CALLS}/certificate.pem").text
    answers = [
        http.get(f"{CALLS}/discovery"),
        http.post(f"{CALLS}/requests", json=body),
        http.get(f"{CALLS}/requests/{body['subject_request_id']}"),
        http.delete(f"{CALLS}/requests/{body['subject_request_id']}"),
        http.post(f"{CALLS}/requests", json={}),
        http.get(f"{CALLS}/requests/{uuid4()}"),
        http.get(f"{CALLS}/requests/{uuid4()}", headers={"Authorization": ""}),
    ]
    assert [answer.status_code for answer in answers] == [200, 201, 200, 202, 400, 404, 401]
    for answer in answers:
        assert answer.headers["X-OpenDSR-Processor-Domain"] == DOMAIN
        verify(certificates, answer.headers["X-OpenDSR-Signature"], answer.content)


def test_discovery_says_what_is_supported_without_a_key(serve: Serve, declared: Path) -> None:
    assert serve(opendsr=declared).get(f"{CALLS}/discovery").json() == {
        "api_version": "2.0",
        "supported_identities": [
            {"identity_type": "email", "identity_format": "raw"},
            {"identity_type": "controller_customer_id", "identity_format": "raw"},
        ],
        "supported_subject_request_types": ["erasure"],
        "processor_certificate": f"https://{DOMAIN}{CALLS}/certificate.pem",
    }


def test_without_a_declaration_there_are_no_such_calls(serve: Serve, people: Site) -> None:
    http = serve(key=people.admin)
    assert http.get(f"{CALLS}/discovery").status_code == 404
    assert http.post(f"{CALLS}/requests", json=asked()).status_code == 404


@pytest.mark.parametrize("quiet_hours", [0, 24])
def test_a_stranger_gets_the_answer_of_somebody_who_is_known(
    serve: Serve, people: Site, tmp_path: Path, sessions: sessionmaker[Session], quiet_hours: int
) -> None:
    http = serve(
        key=people.admin, opendsr=declare(tmp_path, more=f"quiet_hours = {quiet_hours}"), batch_window_seconds=0
    )
    known, unknown = asked(ANN), asked(STRANGER)
    answers = [http.post(f"{CALLS}/requests", json=body) for body in (known, unknown)]
    one, other = (answer.json() for answer in answers)
    assert [answer.status_code for answer in answers] == [201, 201]
    assert {field for field in one if one[field] != other[field]} <= {
        "subject_request_id",
        "encoded_request",
        "received_time",
    }
    publish_job(sessions, only_job(sessions))
    expected = "pending" if quiet_hours else "completed"
    assert [status(http, body)["request_status"] for body in (known, unknown)] == [expected] * 2
    if quiet_hours:
        with sessions.begin() as session:
            session.execute(text("UPDATE managed_requests SET quiet_until = clock_timestamp()"))
        assert [status(http, body)["request_status"] for body in (known, unknown)] == ["completed"] * 2


def test_a_failure_is_never_completed_and_a_dismissal_is_cancelled(
    http: httpx.Client, sessions: sessionmaker[Session]
) -> None:
    body = asked()
    http.post(f"{CALLS}/requests", json=body)
    fail_job(sessions, only_job(sessions))
    found = status(http, body)
    assert (found["request_status"], found["extensions"]) == ("in_progress", {DOMAIN: {"state": "failed"}})
    with sessions() as session:
        request_id = session.scalars(select(UnlearnRequest.id)).one()
    assert http.post(f"/unlearn-requests/{request_id}:dismiss", json={"reason": "as the test wants"}).status_code == 200
    found = status(http, body)
    assert (found["request_status"], found["extensions"]) == ("cancelled", None)


@pytest.mark.parametrize("person", [ANN, STRANGER])
def test_a_replay_is_answered_as_the_first_and_another_body_is_refused(
    http: httpx.Client, sessions: sessionmaker[Session], person: str
) -> None:
    body = asked(person)
    first, second = (http.post(f"{CALLS}/requests", json=body) for _ in range(2))
    assert (first.status_code, second.json()) == (201, first.json())
    with sessions() as session:
        counts = [session.scalar(select(func.count()).select_from(table)) for table in (ManagedRequest, UnlearnRequest)]
    assert counts == [1, 1 if person == ANN else 0]
    other = http.post(f"{CALLS}/requests", json={**body, "submitted_time": "2026-01-30T15:00:00Z"})
    assert (other.status_code, other.json()["error"]["code"]) == (400, 400)


def test_a_request_that_is_open_outlives_rotations_of_the_key(
    http: httpx.Client, serve: Serve, people: Site, declared: Path, sessions: sessionmaker[Session]
) -> None:
    known, unknown = asked(), asked(STRANGER)
    first = [http.post(f"{CALLS}/requests", json=body).json() for body in (known, unknown)]
    key = KEY
    for later in (b"\x01" * 32, b"\x02" * 32):
        before, key = key, key + later
        with sessions.begin() as session:
            assert rotate_sample_key(session, old=before, new=key, rewrite=lambda file, _: file) is not None
    assert http.post(f"{CALLS}/requests", json=known).status_code == 503
    after = serve(key=people.admin, opendsr=declared, batch_window_seconds=0, sample_key=key.hex())
    again = [after.post(f"{CALLS}/requests", json=body) for body in (known, unknown)]
    assert [(answer.status_code, answer.json()) for answer in again] == [(201, one) for one in first]
    changed = {**named("email", STRANGER), "subject_request_id": known["subject_request_id"]}
    assert after.post(f"{CALLS}/requests", json={**known, **changed}).status_code == 400
    publish_job(sessions, only_job(sessions), key=key)
    assert [status(after, body)["request_status"] for body in (known, unknown)] == ["completed"] * 2


def test_a_pending_request_is_cancelled_once_and_a_completed_one_is_not(
    http: httpx.Client, sessions: sessionmaker[Session]
) -> None:
    body, stranger = asked(), asked(STRANGER)
    for one in (body, stranger):
        http.post(f"{CALLS}/requests", json=one)
    path = f"{CALLS}/requests/{body['subject_request_id']}"
    first, second = http.delete(path), http.delete(path)
    assert (first.status_code, second.status_code) == (202, 202)
    assert set(first.json()) == {
        "controller_id",
        "subject_request_id",
        "received_time",
        "expected_completion_time",
        "api_version",
    }
    assert status(http, body)["request_status"] == "cancelled"
    with sessions() as session:
        assert session.scalars(select(UnlearnRequest.state)).one() == "cancelled"
    assert http.delete(f"{CALLS}/requests/{stranger['subject_request_id']}").status_code == 409


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"subject_request_type": "access"}, "access is not supported"),
        ({"subject_request_type": "portability"}, "portability is not supported"),
        ({"subject_request_type": "rectification"}, "/subject_request_type"),
        ({"subject_request_id": "17"}, "/subject_request_id"),
        ({"regulation": "lgpd"}, "/regulation"),
        ({"submitted_time": "2026-01-31"}, "/submitted_time"),
        ({"submitted_time": "2099-01-31T15:00:00Z"}, "submitted_time must not be in the future"),
        ({"submitted_time": "1999-01-31T15:00:00Z"}, "submitted_time must be in the year 2000"),
        ({"subject_identities": []}, "none of subject_identities"),
        ({"api_version": "3.1"}, "/api_version"),
        ({"status_callback_urls": ["ftp://example.org"]}, "/status_callback_urls/0"),
        (named("email", "a" * 64, "sha256"), "none of subject_identities"),
        (named("controller_customer_id", "7" * 198), "too long"),
        (named("email", "ann\n@example.org"), "/subject_identities/0/identity_value"),
        (named("email", "ann@example.org", "rot13"), "/subject_identities/0/identity_format"),
    ],
)
def test_bad_input_is_refused_in_the_form_of_the_protocol_and_recorded_nowhere(
    http: httpx.Client, sessions: sessionmaker[Session], wrong: dict[str, Any], said: str
) -> None:
    answer = http.post(f"{CALLS}/requests", json=asked(**wrong))
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert error["code"] == 400
    assert said.lower() in error["message"].lower()
    assert error["errors"]
    assert "@example.org" not in answer.text
    with sessions() as session:
        assert session.scalar(select(func.count()).select_from(ManagedRequest)) == 0


def test_a_failure_on_our_side_leaves_no_trace_of_a_request(
    http: httpx.Client, sessions: sessionmaker[Session]
) -> None:
    body = asked()
    with sessions.begin() as session:
        session.execute(text("ALTER TABLE targets ADD CONSTRAINT nothing_goes CHECK (false) NOT VALID"))
    try:
        assert http.post(f"{CALLS}/requests", json=body).status_code == 500
    finally:
        with sessions.begin() as session:
            session.execute(text("ALTER TABLE targets DROP CONSTRAINT nothing_goes"))
    assert http.get(f"{CALLS}/requests/{body['subject_request_id']}").status_code == 404
    assert http.post(f"{CALLS}/requests", json=body).status_code == 201


def test_where_no_dataset_knows_its_people_nobody_is_taken_for_a_stranger(
    serve: Serve, site: Site, declared: Path, sessions: sessionmaker[Session]
) -> None:
    answer = serve(key=site.admin, opendsr=declared).post(f"{CALLS}/requests", json=asked())
    assert (answer.status_code, answer.json()["error"]["code"]) == (409, 409)
    with sessions() as session:
        assert session.scalar(select(func.count()).select_from(ManagedRequest)) == 0


def test_another_tenant_and_a_key_without_the_scope_see_nothing(
    serve: Serve, http: httpx.Client, people: Site, declared: Path
) -> None:
    body = asked()
    http.post(f"{CALLS}/requests", json=body)
    path = f"{CALLS}/requests/{body['subject_request_id']}"
    assert serve(key=people.auditor, opendsr=declared).get(path).status_code == 403
    assert serve(key=people.reader, opendsr=declared).post(f"{CALLS}/requests", json=asked()).status_code == 403
    assert serve(key=people.writer, opendsr=declared).post(f"{CALLS}/requests", json=body).status_code == 201


def test_no_table_holds_the_address(http: httpx.Client, sessions: sessionmaker[Session]) -> None:
    for person in (ANN, STRANGER):
        http.post(f"{CALLS}/requests", json=asked(person))
    with sessions() as session:
        assert "@example.org" not in str(stored_rows(session))
