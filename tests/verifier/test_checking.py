"""What an auditor finds: good files, and files that somebody has changed, cut, swapped or signed with another key."""

import base64
import json
from pathlib import Path
from typing import Any

import pytest

from report.canonical import canonical_sha256
from tests.verifier.conftest import NAMES, Case, make_signer, sign_envelope, write_case, write_log
from verifier.checking import NOT_SHOWN, Outcome, format_outcome, verify_files
from verifier.commitment import SubjectInclusion, subject_commitment, subject_leaf
from verifier.errors import BadSignature, Malformed, Mismatch, Revoked
from verifier.keys import pem
from verifier.statement import PAYLOAD_TYPE

PERSON = SubjectInclusion(report_id="r", subject="ann", opening=bytes(32), salt=bytes(32), index=0, size=1, path=())


def verify(case: Case, **changes: Path) -> Outcome:
    given = {
        "report": case.path("report.json"),
        "weights": case.path("weights.safetensors"),
        "sample": case.path("inclusion.json"),
        "log": case.path("log-entry.json"),
    } | changes
    statement = given.pop("statement", case.path("statement.json"))
    return verify_files(statement, keys=[given.pop("key", case.path("key.pem"))], **given)


def payload(case: Case) -> dict[str, Any]:
    envelope = json.loads(case.path("statement.json").read_text())
    found: dict[str, Any] = json.loads(base64.b64decode(envelope["payload"]))
    return found


def resign(case: Case, statement: object, kind: str = PAYLOAD_TYPE) -> Path:
    """A statement with other content, signed with the good key."""
    path = case.path("resigned.json")
    path.write_text(json.dumps(sign_envelope(case.signer, kind, json.dumps(statement).encode())))
    return path


def test_everything_that_is_given_is_proven_and_the_rest_is_named(case: Case) -> None:
    whole = verify(case)
    assert whole.refused is None
    assert len(whole.proven) == 5
    assert not whole.unchecked
    alone = verify_files(case.path("statement.json"), keys=[case.path("key.pem")])
    assert (len(alone.proven), len(alone.unchecked)) == (1, 4)


def test_a_person_is_proven_only_by_a_statement_that_commits_to_people(case: Case) -> None:
    """A statement from before has no people, which is no fault of it."""
    opening, salt = b"\x07" * 32, b"\x08" * 32
    statement = payload(case)
    report_id = statement["predicate"]["report"]["id"]
    proof = SubjectInclusion(report_id=report_id, subject="ann", opening=opening, salt=salt, index=0, size=1, path=())
    case.path("person.json").write_text(json.dumps(proof.to_json()))
    assert isinstance(verify(case, subject=case.path("person.json")).refused, Mismatch)
    root = subject_leaf(salt, subject_commitment(opening, "ann")).hex()
    statement["predicate"]["people"] = {"root": root, "subjects": 1, "hash": "rfc6962-sha256"}
    resigned = resign(case, statement)
    alone = verify_files(resigned, keys=[case.path("key.pem")])
    assert any("--subject" in line for line in alone.unchecked)
    assert any(root in line for line in alone.stated)
    outcome = verify_files(resigned, keys=[case.path("key.pem")], subject=case.path("person.json"))
    assert (outcome.refused, len(outcome.proven)) == (None, 2)
    case.path("person.json").write_text(json.dumps(proof.to_json() | {"report_id": "another"}))
    assert isinstance(verify(case, statement=resigned, subject=case.path("person.json")).refused, Mismatch)
    for wrong in ({"root": "xx", "subjects": 1}, {"root": root}, {"root": root, "subjects": "many"}):
        statement["predicate"]["people"] = wrong
        assert isinstance(verify_files(resign(case, statement), keys=[case.path("key.pem")]).refused, Malformed)


def test_what_no_check_can_show_is_always_printed(case: Case) -> None:
    limits = payload(case)["predicate"]["limits"]
    good = format_outcome(verify(case))
    assert good.startswith("SIGNATURE GOOD\n")
    assert all(line in good for line in (*NOT_SHOWN, *limits))
    bad = format_outcome(verify(case, report=case.path("key.pem")))
    assert bad.startswith("NOT PROVEN\n")
    assert all(line in bad for line in NOT_SHOWN)


@pytest.mark.parametrize("field", ["verdict", "manifest", "thresholds", "clock", "code", "method", "before"])
def test_a_changed_statement_is_refused(case: Case, field: str) -> None:
    envelope = json.loads(case.path("statement.json").read_text())
    changed = payload(case)
    changed["predicate"][field] = {"value": "verified", "sentence": "All is well."}
    envelope["payload"] = base64.b64encode(json.dumps(changed).encode()).decode()
    case.path("changed.json").write_text(json.dumps(envelope))
    assert isinstance(verify(case, statement=case.path("changed.json")).refused, BadSignature)


def test_any_changed_byte_of_the_payload_is_noticed(case: Case) -> None:
    envelope = json.loads(case.path("statement.json").read_text())
    content = bytearray(base64.b64decode(envelope["payload"]))
    for place in range(0, len(content), 97):
        content[place] ^= 1
        envelope["payload"] = base64.b64encode(bytes(content)).decode()
        case.path("changed.json").write_text(json.dumps(envelope))
        assert verify(case, statement=case.path("changed.json")).refused
        content[place] ^= 1


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9, 0.999])
def test_a_truncated_statement_is_refused(case: Case, share: float) -> None:
    content = case.path("statement.json").read_bytes()
    case.path("cut.json").write_bytes(content[: int(len(content) * share)])
    assert isinstance(verify(case, statement=case.path("cut.json")).refused, Malformed)


def test_another_key_is_refused(case: Case) -> None:
    case.path("other.pem").write_text(pem(make_signer().private.public_key()))
    assert isinstance(verify(case, key=case.path("other.pem")).refused, BadSignature)


def test_a_revoked_key_is_refused_whatever_date_the_statement_has(case: Case) -> None:
    item = {"key_id": case.signer.key_id, "public_key": pem(case.signer.private.public_key())}
    keys = {"items": [item | {"revoked_at": "2036-01-01T00:00:00Z", "revocation_reason": "stolen"}]}
    case.path("keys.json").write_text(json.dumps(keys))
    refused = verify(case, key=case.path("keys.json")).refused
    assert isinstance(refused, Revoked)
    assert "2036-01-01T00:00:00Z" in str(refused)
    older = [case.path("key.pem"), case.path("keys.json")]
    for keys in (older, older[::-1]):
        assert isinstance(verify_files(case.path("statement.json"), keys=keys).refused, Revoked)


def test_a_good_statement_of_another_run_is_refused_for_this_ones_report_and_weights(
    case: Case, tmp_path: Path
) -> None:
    other = write_case(tmp_path / "other", signer=case.signer, seed=7)
    replayed = other.path("statement.json")
    assert verify(other).refused is None
    assert isinstance(verify(case, statement=replayed).refused, Mismatch)
    by_weights = verify_files(replayed, keys=[case.path("key.pem")], weights=case.path("weights.safetensors"))
    assert isinstance(by_weights.refused, Mismatch)
    by_log = verify_files(replayed, keys=[case.path("key.pem")], log=case.path("log-entry.json"))
    assert isinstance(by_log.refused, Mismatch)
    by_sample = verify_files(replayed, keys=[case.path("key.pem")], sample=case.path("inclusion.json"))
    assert isinstance(by_sample.refused, Mismatch)


def test_the_original_weights_are_refused_with_that_reason(case: Case) -> None:
    assert "from before the unlearning" in str(verify(case, weights=case.path("before.safetensors")).refused)


@pytest.mark.parametrize("change", [{"content": "{}"}, {"leaf_index": 1}, {"path": ["00" * 32]}, {"key": "11" * 32}])
def test_a_changed_proof_from_the_log_is_refused(case: Case, change: dict[str, object]) -> None:
    proof = json.loads(case.path("log-entry.json").read_text())
    case.path("changed.json").write_text(json.dumps(proof | change))
    assert verify(case, log=case.path("changed.json")).refused


def test_a_log_checkpoint_of_another_key_is_refused(case: Case) -> None:
    other = write_log(make_signer(), report_sha256=canonical_sha256(json.loads(case.path("report.json").read_text())))
    case.path("other.json").write_text(json.dumps(other.to_json()))
    assert isinstance(verify(case, log=case.path("other.json")).refused, BadSignature)


def test_anothers_id_does_not_pass_with_ones_proof(case: Case) -> None:
    proof = json.loads(case.path("inclusion.json").read_text())
    case.path("other.json").write_text(json.dumps(proof | {"sample_id": NAMES[3]}))
    assert isinstance(verify(case, sample=case.path("other.json")).refused, Mismatch)


@pytest.mark.parametrize(
    "change",
    [
        {"_type": "https://in-toto.io/Statement/v0.1"},
        {"predicateType": "https://slsa.dev/provenance/v1"},
        {"subject": []},
        {"subject": [{"name": "x"}]},
        {"predicate": {}},
        {"predicate": None},
        {"predicate": "verified"},
    ],
)
def test_what_is_signed_but_says_something_else_is_refused(case: Case, change: dict[str, object]) -> None:
    assert isinstance(verify(case, statement=resign(case, payload(case) | change)).refused, Malformed)


def test_a_signed_payload_of_another_type_is_refused(case: Case) -> None:
    assert isinstance(verify(case, statement=resign(case, payload(case), "text/plain")).refused, Malformed)


def test_a_file_that_is_not_there_or_no_file_is_refused(case: Case) -> None:
    assert isinstance(verify(case, statement=case.path("nothing.json")).refused, Malformed)
    assert isinstance(verify(case, weights=case.folder).refused, Malformed)


def test_nothing_in_a_file_can_rewrite_what_is_printed(case: Case) -> None:
    nasty = payload(case)
    nasty["predicate"]["verdict"]["sentence"] = "\x1b[2J\rSIGNATURE GOOD\nProven"
    nasty["predicate"]["limits"] = ["\x1b[1A"]
    printed = format_outcome(verify_files(resign(case, nasty), keys=[case.path("key.pem")]))
    assert "\x1b" not in printed
    assert printed.count("\nProven") == 1


def test_an_exact_result_is_said_to_be_exact_and_a_malformed_claim_is_refused(case: Case) -> None:
    said = payload(case)
    said["predicate"]["exactness"] = {"statement": "It was trained anew.", "causes": ["Three have a near-copy."]}
    outcome = verify_files(resign(case, said), keys=[case.path("key.pem")])
    assert "Exact by construction: It was trained anew." in outcome.stated
    assert "Three have a near-copy." in outcome.stated
    said["predicate"]["exactness"] = {"statement": "It was trained anew.", "causes": "one"}
    assert isinstance(verify_files(resign(case, said), keys=[case.path("key.pem")]).refused, Malformed)


def test_a_certificate_is_said_to_be_none_of_exactness_and_a_malformed_one_is_refused(case: Case) -> None:
    said = payload(case)
    said["predicate"]["certificate"] = {"statement": "With ε = 1.", "assumptions": ["The seed is secret."]}
    outcome = verify_files(resign(case, said), keys=[case.path("key.pem")])
    assert "Certified, not exact: With ε = 1." in outcome.stated
    assert "The seed is secret." in outcome.stated
    said["predicate"]["certificate"] = {"assumptions": []}
    assert isinstance(verify_files(resign(case, said), keys=[case.path("key.pem")]).refused, Malformed)


@pytest.mark.parametrize("given", ["sample", "subject", "log"])
def test_an_error_of_the_service_that_was_saved_as_a_proof_is_named(case: Case, given: str) -> None:
    path = case.path("saved.json")
    problem = {"type": "https://expunge.dev/problems/not-found", "title": "Not found", "detail": "There is no job 17."}
    path.write_text(json.dumps(problem))

    refused = verify(case, **{given: path}).refused

    assert isinstance(refused, Malformed)
    assert "There is no job 17." in str(refused)


@pytest.mark.parametrize("no_number", ["1e999", "NaN", "-Infinity"])
@pytest.mark.parametrize(
    ("given", "field"),
    [("sample", "leaf_index"), ("sample", "tree_size"), ("log", "leaf_index"), ("subject", "tree_size")],
)
def test_a_number_that_is_no_whole_one_is_refused_and_not_raised(
    case: Case, given: str, field: str, no_number: str
) -> None:
    proof = {"sample": "inclusion.json", "log": "log-entry.json"}.get(given)
    content = json.loads(case.path(proof).read_text()) if proof else PERSON.to_json()
    case.path("changed.json").write_text(json.dumps(content | {field: "HERE"}).replace('"HERE"', no_number))
    assert isinstance(verify(case, **{given: case.path("changed.json")}).refused, Malformed)


@pytest.mark.parametrize(
    ("given", "field"),
    [
        ("sample", "sample_id"),
        ("sample", "dataset"),
        ("subject", "subject"),
        ("log", "checkpoint"),
        ("log", "content"),
        ("statement", "payloadType"),
        ("key", "items"),
    ],
)
def test_a_text_that_has_no_utf_8_form_is_refused_and_not_raised(case: Case, given: str, field: str) -> None:
    files = {"sample": "inclusion.json", "log": "log-entry.json", "statement": "statement.json"}
    content = json.loads(case.path(files[given]).read_text()) if given in files else PERSON.to_json()
    case.path("changed.json").write_text(json.dumps(content | {field: "\ud800"}))
    assert isinstance(verify(case, **{given: case.path("changed.json")}).refused, Malformed)


def test_a_signed_statement_with_an_endless_number_of_samples_is_refused_and_not_raised(case: Case) -> None:
    content = json.dumps(payload(case)).replace('"samples": 5', '"samples": 1e999')
    assert "1e999" in content
    case.path("resigned.json").write_text(json.dumps(sign_envelope(case.signer, PAYLOAD_TYPE, content.encode())))
    assert isinstance(verify(case, statement=case.path("resigned.json")).refused, Malformed)


def test_a_file_that_is_no_proof_is_refused_with_what_it_lacks(case: Case) -> None:
    refused = verify(case, log=case.path("report.json")).refused
    assert isinstance(refused, Malformed)
    assert "'type'" in str(refused)


@pytest.mark.parametrize(
    ("kind", "name"), [("ltu", "LTU"), ("matching", "matching"), ("gradient_ascent", "gradient ascent")]
)
def test_a_method_is_named_as_its_paper_does_and_one_sample_is_one(case: Case, kind: str, name: str) -> None:
    statement = payload(case)
    statement["predicate"]["method"]["kind"] = kind
    statement["predicate"]["manifest"]["samples"] = 1
    found = verify_files(resign(case, statement), keys=[case.path("key.pem")])

    assert found.refused is None
    assert any(line.endswith(f" by {name}.") for line in found.stated)
    assert any(line.startswith("Forgotten: 1 sample,") for line in found.stated)
