import hashlib
from datetime import datetime
from pathlib import Path

from report.document import read
from tests.report.recorded import CERTIFICATE, recorded, stored
from verifier.statement import PREDICATE_TYPE, STATEMENT_TYPE
from worker.signing import code_sha256, make_statement


def test_it_says_everything_that_the_contract_asks_for() -> None:
    report = stored("verified")
    statement = make_statement(read(report))
    assert (statement["_type"], statement["predicateType"]) == (STATEMENT_TYPE, PREDICATE_TYPE)
    assert [subject["digest"]["sha256"] for subject in statement["subject"]] == [
        report["model"]["weights_after_sha256"]
    ]
    predicate = statement["predicate"]
    assert predicate["before"][0]["digest"]["sha256"] == report["model"]["weights_before_sha256"]
    assert predicate["manifest"] == {
        "root": report["asked"]["manifest_root"],
        "samples": report["asked"]["samples"],
        "hash": "rfc6962-sha256",
    }
    assert predicate["method"]["parameters"] == report["method"]["parameters"]
    assert predicate["method"]["origin"] == "request"
    assert predicate["code"]["sha256"] == code_sha256()
    assert predicate["thresholds"] == report["thresholds"]
    assert predicate["verdict"]["value"] == report["verdict"]["value"]
    assert datetime.fromisoformat(predicate["clock"]["signed_at"]) == datetime.fromisoformat(report["created_at"])
    assert predicate["report"] == {"id": report["report_id"], "sha256": read(report).sha256, "schema": report["schema"]}


def test_it_names_the_model_that_the_result_was_held_against_where_there_was_one() -> None:
    report = stored("retrained")
    predicate = make_statement(read(report))["predicate"]
    assert predicate["reference"] == [
        {
            "name": "digits/versions/2",
            "digest": {"sha256": report["model"]["reference"]["weights_sha256"]},
        }
    ]
    assert make_statement(recorded("verified"))["predicate"]["reference"] == []


def test_it_tells_the_controls_and_no_other_finding() -> None:
    report = stored("verified")
    controls = make_statement(read(report))["predicate"]["controls"]
    assert {finding["code"] for finding in controls} == {"negative_control_membership", "negative_control_reference"}


def test_the_codes_digest_is_the_same_each_time() -> None:
    assert code_sha256() == code_sha256.__wrapped__()
    assert len(code_sha256()) == 64


def test_the_codes_digest_is_over_all_packages_that_make_a_report() -> None:
    """Computed again, by the rule that docs/verifying.md gives to auditors."""
    digest = hashlib.sha256()
    files = [path for package in ("report", "unlearning", "worker") for path in Path(package).rglob("*.py")]
    for path in sorted(files):
        content = path.read_bytes()
        digest.update(f"{path.as_posix()} {len(content)}\n".encode() + content)
    assert code_sha256() == digest.hexdigest()


def test_it_says_why_an_exact_result_is_exact_beside_its_verdict() -> None:
    exactness = {"statement": "It was trained anew.", "causes": ["Three have a near-copy."]}
    predicate = make_statement(read(stored("failed") | {"exactness": exactness}))["predicate"]
    assert predicate["exactness"] == exactness
    assert predicate["verdict"]["value"] == "failed"
    assert make_statement(recorded("verified"))["predicate"]["exactness"] is None


def test_it_states_a_certificate_with_what_it_assumes() -> None:
    assert (
        make_statement(read(stored("verified") | {"certificate": CERTIFICATE}))["predicate"]["certificate"]
        == CERTIFICATE
    )
    assert make_statement(recorded("verified"))["predicate"]["certificate"] is None
