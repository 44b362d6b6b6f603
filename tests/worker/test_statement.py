from tests.report.samples import sample_report
from verifier.statement import PREDICATE_TYPE, STATEMENT_TYPE
from worker.signing import code_sha256, make_statement


def test_it_says_everything_that_the_contract_asks_for() -> None:
    report = sample_report()
    statement = make_statement(report, report_sha256="ab" * 32)
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
    assert predicate["method"]["origin"] == "policy"
    assert predicate["code"]["sha256"] == code_sha256()
    assert predicate["thresholds"] == report["thresholds"]
    assert predicate["verdict"]["value"] == report["verdict"]["value"]
    assert predicate["clock"]["signed_at"] == report["created_at"]
    assert predicate["report"] == {"id": report["report_id"], "sha256": "ab" * 32, "schema": report["schema"]}


def test_it_names_the_model_that_the_result_was_held_against_where_there_was_one() -> None:
    report = sample_report(reference=True)
    predicate = make_statement(report, report_sha256="ab" * 32)["predicate"]
    assert predicate["reference"] == [
        {
            "name": "sample-digits/versions/3",
            "digest": {"sha256": report["model"]["reference"]["weights_sha256"]},
        }
    ]
    assert make_statement(sample_report(), report_sha256="ab" * 32)["predicate"]["reference"] == []


def test_it_tells_the_controls_and_no_other_finding() -> None:
    report = sample_report()
    report["verdict"]["findings"] += [
        {"code": "negative_control_membership", "passed": True, "text": "x", "value": 0.7, "low": 0.6, "high": 0.8}
    ]
    controls = make_statement(report, report_sha256="ab" * 32)["predicate"]["controls"]
    assert [finding["code"] for finding in controls] == ["negative_control_membership"]


def test_the_codes_digest_is_the_same_each_time() -> None:
    assert code_sha256() == code_sha256.__wrapped__()
    assert len(code_sha256()) == 64
