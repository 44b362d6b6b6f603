"""Transcend over HTTP: its webhook, the results that it gets, and the puller."""

import json
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
import pytest
from sqlalchemy import func, select, text
from sqlalchemy.orm import Session, sessionmaker
from typer.testing import CliRunner

from connectors.transcend import Transcend, hash_job, read_transcend
from expunge.cli.main import app
from expunge.errors import CannotPull, Refused
from expunge.operator.transcend import pull
from ledger.jobs.cancellation import retry_job
from ledger.registry.subjects import assign_subjects
from ledger.requests import managed
from ledger.requests.deadlines import due_at
from ledger.sample_ids import sample_digest, subject_digest
from ledger.sample_key import rotate_sample_key
from ledger.tables import ManagedRequest, Target, UnlearnRequest
from tests.fixtures.postgresql import stored_rows
from tests.fixtures.transcend import Sombra, declare, make_token, sombra
from tests.service.conftest import SAMPLE_KEY, Serve, Site, fail_job, publish_job
from worker.beat.transcend import Refusals, report_results

KEY = bytes.fromhex(SAMPLE_KEY)
ANN, STRANGER = "Ann@Example.org", "stranger@example.org"
REQUEST = "14f448c3-6497-4991-9b04-1b979e6d3e5b"
ASKED_AT = "2026-01-31T15:00:00.000Z"

Sessions = sessionmaker[Session]


@pytest.fixture(scope="module")
def gateway() -> Any:
    with sombra() as gateway:
        yield gateway


@pytest.fixture(autouse=True)
def _fresh(gateway: Sombra) -> None:
    gateway.pending, gateway.results, gateway.status, gateway.after_work, gateway.refused = [], [], None, False, None


@pytest.fixture(scope="module")
def declared(tmp_path_factory: pytest.TempPathFactory, gateway: Sombra) -> Path:
    return declare(tmp_path_factory.mktemp("transcend"), url=gateway.url)


@pytest.fixture
def platform(declared: Path) -> Transcend:
    return read_transcend(declared)


@pytest.fixture
def http(serve: Serve, site: Site, declared: Path, sessions: Sessions) -> httpx.Client:
    """The writer of the site, where a trained sample belongs to ann."""
    rows = [(subject_digest(KEY, ANN.lower()), sample_digest(KEY, "scans", "sample-1"), 1)]
    with sessions.begin() as session:
        assign_subjects(session, tenant_id=site.tenant_id, dataset="scans", rows=rows)
    return serve(key=site.writer, transcend=declared, batch_window_seconds=0)


def job(person: str = ANN, **more: object) -> dict[str, Any]:
    """The body of a webhook, as the documentation of Transcend shows it."""
    return {
        "type": "ERASURE",
        "coreIdentifier": {"value": person},
        "dataSubject": {"type": "customer"},
        "isTest": False,
        "extras": {
            "profile": {"identifier": person, "type": "email"},
            "dataSilo": {"id": "9d5a7a41-f102-435c-b80d-38c2b378ecac", "type": "server"},
            "request": {"id": REQUEST, "createdAt": ASKED_AT, "link": f"https://app.transcend.io/request/{REQUEST}"},
            "organization": {"id": "aaca371a-1ca0-4c55-9631-a1d8088a0e7d", "uri": "acme"},
        },
        **more,
    }


def post(
    http: httpx.Client, body: object = None, *, person: str = ANN, nonce: str = "nonce-1", **claims: Any
) -> httpx.Response:
    token = make_token({"value": person, "iat": time.time(), "aud": "acme", **claims})
    headers = {"x-sombra-token": token, "x-transcend-nonce": nonce}
    return http.post("/transcend/webhook", json=job(person) if body is None else body, headers=headers)


def count(sessions: Sessions, table: type = ManagedRequest) -> int:
    with sessions() as session:
        return session.scalar(select(func.count()).select_from(table)) or 0


def only_job(sessions: Sessions) -> UUID:
    with sessions() as session:
        found = session.scalars(select(Target.job_id)).one()
    assert found is not None
    return found


def report(sessions: Sessions, platform: Transcend) -> None:
    """Do what the thread of a beat that has just started does."""
    report_results(sessions, platform, key=KEY, refusals={})


def test_an_erasure_comes_by_the_webhook_and_its_result_goes_to_sombra_once(
    http: httpx.Client, sessions: Sessions, platform: Transcend, gateway: Sombra
) -> None:
    answer = post(http)
    assert (answer.status_code, answer.json()) == (200, {})
    with sessions() as session:
        request = session.scalars(select(UnlearnRequest)).one()
    assert request.external_id is not None
    assert request.external_id.startswith(f"{REQUEST}.")
    assert request.due_at == due_at("gdpr", request.received_at)
    report(sessions, platform)
    assert gateway.results == []
    publish_job(sessions, only_job(sessions))
    for _ in range(2):
        report(sessions, platform)
    assert gateway.results == [("nonce-1", {})]
    with sessions() as session:
        assert session.scalars(select(ManagedRequest.reply)).one() is None


def test_a_stranger_is_answered_alike_and_is_done_after_the_quiet_hours(
    serve: Serve, site: Site, http: httpx.Client, sessions: Sessions, tmp_path: Path, gateway: Sombra
) -> None:
    quiet = declare(tmp_path, url=gateway.url, more="quiet_hours = 24")
    platform = read_transcend(quiet)
    writer = serve(key=site.writer, transcend=quiet, batch_window_seconds=0)
    known, unknown = post(writer, nonce="known"), post(writer, person=STRANGER, nonce="unknown")
    assert (known.status_code, known.json()) == (unknown.status_code, unknown.json())
    publish_job(sessions, only_job(sessions))
    report(sessions, platform)
    assert gateway.results == []
    with sessions.begin() as session:
        session.execute(text("UPDATE managed_requests SET quiet_until = clock_timestamp()"))
    report(sessions, platform)
    assert sorted(gateway.results) == [("known", {}), ("unknown", {})]


def test_a_failure_is_a_failure_there_until_it_has_succeeded(
    http: httpx.Client, site: Site, sessions: Sessions, platform: Transcend, gateway: Sombra
) -> None:
    post(http)
    fail_job(sessions, only_job(sessions))
    for _ in range(2):
        report(sessions, platform)
    ((nonce, result),) = gateway.results
    assert (nonce, result["status"], result["profileStatus"]) == ("nonce-1", "ACTION_REQUIRED", "ERROR")
    with sessions.begin() as session:
        retry_job(session, tenant_id=site.tenant_id, job_id=only_job(sessions))
    report(sessions, platform)
    assert len(gateway.results) == 1
    publish_job(sessions, only_job(sessions))
    report(sessions, platform)
    assert gateway.results[1:] == [("nonce-1", {})]


@pytest.mark.slow
def test_what_is_dismissed_is_never_a_success(
    http: httpx.Client, serve: Serve, site: Site, sessions: Sessions, platform: Transcend, gateway: Sombra
) -> None:
    post(http)
    fail_job(sessions, only_job(sessions))
    with sessions() as session:
        request_id = session.scalars(select(UnlearnRequest.id)).one()
    path = f"/unlearn-requests/{request_id}:dismiss"
    assert serve(key=site.admin).post(path, json={"reason": "as the test wants"}).status_code == 200
    report(sessions, platform)
    ((_, result),) = gateway.results
    assert result["profileStatus"] == "ERROR"


@pytest.mark.parametrize("after_work", [False, True])
def test_a_result_is_sent_until_sombra_has_taken_it(
    http: httpx.Client, sessions: Sessions, platform: Transcend, gateway: Sombra, after_work: bool, caplog: Any
) -> None:
    post(http)
    post(http, person=STRANGER, nonce="other")
    publish_job(sessions, only_job(sessions))
    gateway.status, gateway.after_work = 500, after_work
    report(sessions, platform)
    assert "Sombra answered 500" in caplog.text
    assert "xample.org" not in caplog.text
    gateway.status, gateway.results = None, []
    report(sessions, platform)
    assert sorted(gateway.results) == [("nonce-1", {}), ("other", {})]


@pytest.mark.slow
def test_a_result_that_sombra_refuses_holds_up_no_other(
    http: httpx.Client, sessions: Sessions, platform: Transcend, gateway: Sombra, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(managed, "BATCH_SIZE", 1)
    for number in range(3):
        post(http, person=f"{number}{STRANGER}", nonce=f"nonce-{number}")
    gateway.refused = "nonce-0"
    report(sessions, platform)
    assert sorted(gateway.results) == [("nonce-1", {}), ("nonce-2", {})]
    gateway.refused = None
    report(sessions, platform)
    assert gateway.results[2:] == [("nonce-0", {})]


def test_a_refused_result_is_sent_again_ever_more_rarely_and_what_has_changed_at_once(
    http: httpx.Client, sessions: Sessions, platform: Transcend, gateway: Sombra, caplog: pytest.LogCaptureFixture
) -> None:
    post(http, person=STRANGER, nonce="refused")
    gateway.refused = "refused"
    refusals: Refusals = {}
    now, waits = 0.0, []
    for _ in range(14):
        for moment in (now, now + 1):
            report_results(sessions, platform, key=KEY, refusals=refusals, clock=partial(float, moment))
        ((again_at, _),) = refusals.values()
        waits.append(again_at - now)
        now = again_at
    assert waits == [60.0 * 2**count for count in range(11)] + [86400.0] * 3
    assert caplog.text.count("Sombra answered 400") == 14
    post(http, person=STRANGER, nonce="new")
    report_results(sessions, platform, key=KEY, refusals=refusals, clock=partial(float, now - 1))
    assert (gateway.results, refusals) == ([("new", {})], {})


def test_a_replay_is_recorded_once_and_a_job_that_is_sent_again_gets_its_result_again(
    http: httpx.Client, sessions: Sessions, platform: Transcend, gateway: Sombra
) -> None:
    assert [post(http, nonce=nonce).status_code for nonce in ("old", "new")] == [200, 200]
    assert (count(sessions), count(sessions, UnlearnRequest)) == (1, 1)
    publish_job(sessions, only_job(sessions))
    report(sessions, platform)
    assert gateway.results == [("new", {})]
    post(http, nonce="newest")
    report(sessions, platform)
    assert gateway.results[1:] == [("newest", {})]
    assert count(sessions, UnlearnRequest) == 1


def test_two_identities_that_mean_one_person_each_get_their_result(
    http: httpx.Client, sessions: Sessions, platform: Transcend, gateway: Sombra
) -> None:
    for nonce, person in (("first", STRANGER), ("second", STRANGER.upper())):
        assert post(http, person=person, nonce=nonce).status_code == 200
    report(sessions, platform)
    assert sorted(gateway.results) == [("first", {}), ("second", {})]


def test_of_two_simultaneous_calls_one_records_the_job(http: httpx.Client, sessions: Sessions) -> None:
    with ThreadPoolExecutor(4) as threads:
        answers = [*threads.map(lambda number: post(http, nonce=f"nonce-{number}"), range(8))]
    assert {answer.status_code for answer in answers} == {200}
    assert (count(sessions), count(sessions, UnlearnRequest)) == (1, 1)


def test_jobs_that_are_open_outlive_rotations_of_the_key_and_nothing_stays_under_an_old_one(
    http: httpx.Client,
    serve: Serve,
    site: Site,
    declared: Path,
    sessions: Sessions,
    platform: Transcend,
    gateway: Sombra,
) -> None:
    for person in (ANN, STRANGER):
        assert post(http, person=person, nonce=person[0]).status_code == 200
    key = KEY
    for later in (b"\x01" * 32, b"\x02" * 32):
        before, key = key, key + later
        with sessions.begin() as session:
            assert rotate_sample_key(session, old=before, new=key, rewrite=lambda file, _: file) is not None
        with sessions() as session:
            rows = str(stored_rows(session))
        for person in (ANN, STRANGER):
            subject = person.lower()
            known = hash_job(UUID(REQUEST), "email", person, subject, key=before), subject_digest(before, subject).hex()
            for digest in known:
                assert digest[:16] not in rows
    assert post(http, nonce="late").status_code == 503  # the process has the key of before
    after = serve(key=site.writer, transcend=declared, batch_window_seconds=0, sample_key=key.hex())
    assert post(after, nonce="again").status_code == 200
    assert (count(sessions), count(sessions, UnlearnRequest)) == (2, 1)
    publish_job(sessions, only_job(sessions), key=key)
    report_results(sessions, platform, key=key, refusals={})
    assert sorted(gateway.results) == [("again", {}), (STRANGER[0], {})]


def test_a_job_that_comes_again_with_another_time_is_the_same(http: httpx.Client, sessions: Sessions) -> None:
    assert post(http).status_code == 200
    later = job(extras={**job()["extras"], "request": {"id": REQUEST}})
    assert post(http, later).status_code == 200
    pulled = {"request_id": REQUEST, "type": "email", "identifier": ANN, "created_at": "2026-02-01T00:00:00Z"}
    assert http.post("/transcend/requests", json=pulled).status_code == 200
    assert (count(sessions), count(sessions, UnlearnRequest)) == (1, 1)


def test_a_job_that_is_sent_again_while_its_result_is_on_the_way_gets_one_for_the_new_nonce_too(
    http: httpx.Client, sessions: Sessions, platform: Transcend, gateway: Sombra, monkeypatch: pytest.MonkeyPatch
) -> None:
    post(http, person=STRANGER, nonce="old")
    sent = Transcend.send_result

    def send_and_be_asked_again(self: Transcend, nonce: str, result: Any) -> None:
        sent(self, nonce, result)
        if nonce == "old":
            post(http, person=STRANGER, nonce="new")

    monkeypatch.setattr(Transcend, "send_result", send_and_be_asked_again)
    for _ in range(3):
        report(sessions, platform)
    assert gateway.results == [("old", {}), ("new", {})]


def without(*path: str) -> dict[str, Any]:
    body = job()
    inner = body
    for step in path[:-1]:
        inner = inner[step]
    del inner[path[-1]]
    return body


def test_what_cannot_be_carried_out_is_no_success_and_recorded_nowhere(http: httpx.Client, sessions: Sessions) -> None:
    extras = job()["extras"]
    for body, status in (
        (job(type="ACCESS"), 422),
        (without("extras", "profile"), 422),
        (without("extras", "request", "id"), 422),
        (job(extras={**extras, "profile": {"identifier": ANN, "type": "phone"}}), 422),
        (job(extras={**extras, "profile": {"identifier": "a" * 300, "type": "email"}}), 422),
        (job(extras={**extras, "request": {"id": REQUEST, "createdAt": "2099-01-31T15:00:00Z"}}), 422),
        (job(coreIdentifier={"value": "another"}), 403),
        (without("coreIdentifier"), 403),
        ([], 422),
    ):
        answer = post(http, body)
        assert answer.status_code == status, (body, answer.text)
        assert "xample.org" not in answer.text
    assert count(sessions) == 0


def test_a_message_needs_sombras_token_a_nonce_and_a_key_of_ours(
    http: httpx.Client, serve: Serve, site: Site, sessions: Sessions, declared: Path
) -> None:
    assert http.post("/transcend/webhook", json=job()).status_code == 403
    old = time.time() - timedelta(days=2).total_seconds()
    assert post(http, iat=old).status_code == 403
    assert post(http, nonce="").status_code == 422
    assert post(http, nonce="two words").status_code == 422
    assert http.post("/transcend/webhook", content=b"x" * 300_000).status_code == 413
    assert post(serve(transcend=declared)).status_code == 401
    assert post(serve(key=site.reader, transcend=declared)).status_code == 403
    assert post(serve(key=site.writer)).status_code == 404
    assert count(sessions) == 0


def test_the_age_of_a_token_counts_by_the_databases_clock(
    http: httpx.Client, site: Site, declared: Path, database_an_hour_ahead: None, serve: Serve
) -> None:
    ahead = serve(key=site.writer, transcend=declared, alone=True)  # with new connections
    hour = 3600.0

    assert post(ahead, iat=time.time() + hour).status_code == 200
    assert post(ahead, iat=time.time() + 2 * hour).status_code == 403
    assert post(ahead, iat=time.time() - 23.5 * hour).status_code == 403
    assert post(ahead, iat=time.time() - 22 * hour).status_code == 200


def test_no_table_holds_the_identity_nor_the_nonce(http: httpx.Client, sessions: Sessions) -> None:
    for person in (ANN, STRANGER):
        post(http, person=person, nonce=f"nonce.{person}")
    with sessions() as session:
        rows = str(stored_rows(session))
    for plain in ("xample.org", "nonce."):
        assert plain not in rows
        assert plain.encode().hex() not in rows


def outcomes(platform: Transcend, http: httpx.Client) -> list[str]:
    return [pulled.outcome for pulled in pull(platform, http)]


def test_a_puller_passes_pending_erasures_on_and_sends_their_results(
    http: httpx.Client, sessions: Sessions, platform: Transcend, gateway: Sombra
) -> None:
    for number, person in enumerate((ANN, STRANGER)):
        gateway.add(number, person)
    gateway.add(2, "+49 30", kind="phone")
    gateway.pending.insert(0, {"nonce": "of another form"})
    with pytest.raises(CannotPull, match="1 pending"):
        outcomes(platform, http)
    assert dict(gateway.results)["nonce-1"] == {}
    del gateway.pending[0], gateway.results[:]
    gateway.add(1, STRANGER)
    assert outcomes(platform, http) == ["waits", "failed", "done"]
    assert outcomes(platform, http) == ["waits", "failed"]  # the stranger's is not pending any more
    publish_job(sessions, only_job(sessions))
    assert outcomes(platform, http) == ["done", "failed"]
    assert gateway.results.count(("nonce-0", {})) == 1
    refused = dict(gateway.results)["nonce-2"]
    assert (refused["profileStatus"], "no identity of this type" in refused["message"]) == ("ERROR", True)
    assert (count(sessions), count(sessions, UnlearnRequest)) == (2, 1)


@pytest.mark.slow
def test_a_pull_that_breaks_off_is_made_good_by_the_next(
    http: httpx.Client, serve: Serve, site: Site, sessions: Sessions, platform: Transcend, gateway: Sombra
) -> None:
    gateway.add(0, STRANGER)
    with pytest.raises(Refused):
        outcomes(platform, serve(key=site.writer))  # the API has no such calls
    assert gateway.results == []
    pending = pull(platform, http)
    gateway.status = 500
    with pytest.raises(CannotPull, match="500"):
        next(pending)
    gateway.status = None
    assert outcomes(platform, http) == ["done"]
    assert (gateway.results, count(sessions)) == ([("nonce-0", {})], 1)


def test_a_result_that_sombra_refuses_holds_up_no_other_pulled_job(
    http: httpx.Client, platform: Transcend, gateway: Sombra
) -> None:
    for number in range(3):
        gateway.add(number, f"{number}{STRANGER}")
    gateway.refused = "nonce-1"
    with pytest.raises(CannotPull, match="400"):
        outcomes(platform, http)
    assert sorted(gateway.results) == [("nonce-0", {}), ("nonce-2", {})]


def test_the_command_pulls_once_and_names_no_person(
    http: httpx.Client, gateway: Sombra, declared: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gateway.add(0, STRANGER)
    monkeypatch.setenv("EXPUNGE_TRANSCEND", str(declared))
    given = ["--url", str(http.base_url), "--key", http.headers["Authorization"].removeprefix("Bearer ")]
    run = CliRunner().invoke(app, ["transcend", *given])
    assert run.exit_code == 0, run.output
    assert run.output.split() == [gateway.results[0][0].replace("nonce-0", f"14f448c3-6497-4991-9b04-{0:012x}"), "done"]
    assert json.dumps(run.output).count("xample") == 0
