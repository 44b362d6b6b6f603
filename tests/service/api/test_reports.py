import hashlib

import jsonschema_rs
import pytest
from sqlalchemy.orm import Session, sessionmaker

from tests.service.conftest import Serve, Site, publish_job, set_up
from verifier.commitment import check_inclusion, read_inclusion

ASKED = {"dataset": "scans", "sample_ids": ["sample-1"], "expedite": True}


@pytest.fixture
def report_path(serve: Serve, site: Site, sessions: sessionmaker[Session]) -> str:
    answer = serve(key=site.admin).post("/unlearn-requests", json=ASKED)
    return f"/reports/{publish_job(sessions, answer.json()['targets'][0]['job']['id'])}"


def test_the_digest_of_the_json_is_its_etag(serve: Serve, site: Site, report_path: str) -> None:
    answer = serve(key=site.auditor).get(report_path)

    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["etag"] == f'"{hashlib.sha256(answer.content).hexdigest()}"'
    assert answer.json()["verdict"]["value"] == "verified"


def test_everybody_can_have_the_schema_that_a_report_follows(serve: Serve, site: Site, report_path: str) -> None:
    answer = serve().get("/reports/schema")

    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/schema+json")
    report = serve(key=site.auditor).get(report_path).json()
    assert answer.json()["$id"] == report["schema"]
    jsonschema_rs.validator_for(answer.json()).validate(report)


@pytest.mark.parametrize(("suffix", "accept"), [(".html", "*/*"), ("", "text/html,*/*;q=0.8")])
def test_a_browser_gets_a_page_that_may_load_nothing(
    serve: Serve, site: Site, report_path: str, suffix: str, accept: str
) -> None:
    answer = serve(key=site.auditor).get(report_path + suffix, headers={"Accept": accept})

    assert answer.status_code == 200
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert "<svg" in answer.text
    assert answer.headers["content-security-policy"].startswith("default-src 'none'")
    assert answer.headers["vary"] == "Accept"


def test_the_file_is_a_pdf(serve: Serve, site: Site, report_path: str) -> None:
    answer = serve(key=site.auditor).get(report_path + ".pdf")

    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/pdf")
    assert answer.content.startswith(b"%PDF")


def test_reports_need_their_own_scope(serve: Serve, site: Site, report_path: str) -> None:
    assert serve(key=site.reader).get(report_path).status_code == 403


def test_another_tenant_cannot_read_it(
    serve: Serve, site: Site, sessions: sessionmaker[Session], report_path: str
) -> None:
    with sessions.begin() as session:
        other = set_up(session, "bank")

    assert [serve(key=other.auditor).get(report_path + form).status_code for form in ("", ".html", ".pdf")] == [404] * 3


def test_one_person_is_shown_to_be_among_the_forgotten(serve: Serve, site: Site, report_path: str) -> None:
    report = serve(key=site.admin).get(report_path).json()
    answer = serve(key=site.admin).post(f"{report_path}/inclusion", json={"sample_id": "sample-1"})

    assert answer.status_code == 200
    root = bytes.fromhex(report["asked"]["manifest_root"])
    check_inclusion(read_inclusion(answer.content), root=root, size=1)


def test_a_sample_that_was_not_forgotten_has_no_proof_and_is_not_named(
    serve: Serve, site: Site, report_path: str
) -> None:
    answer = serve(key=site.admin).post(f"{report_path}/inclusion", json={"sample_id": "sample-2"})

    assert (answer.status_code, "sample-2" in answer.text) == (404, False)


def test_who_may_not_know_who_was_erased_gets_no_proof(serve: Serve, site: Site, report_path: str) -> None:
    for key in (site.auditor, site.reader):
        assert serve(key=key).post(f"{report_path}/inclusion", json={"sample_id": "sample-1"}).status_code == 403


def test_the_statement_is_given_as_it_was_signed(serve: Serve, site: Site, sessions: sessionmaker[Session]) -> None:
    signed = {"payload": "e30=", "payloadType": "x", "signatures": []}
    job_id = serve(key=site.admin).post("/unlearn-requests", json=ASKED).json()["targets"][0]["job"]["id"]
    path = f"/reports/{publish_job(sessions, job_id, sign=lambda report: signed)}/statement"

    assert serve(key=site.auditor).get(path).json() == signed
    assert serve(key=site.reader).get(path).status_code == 403


def test_a_report_that_was_not_signed_has_no_statement(serve: Serve, site: Site, report_path: str) -> None:
    assert serve(key=site.auditor).get(f"{report_path}/statement").status_code == 404
