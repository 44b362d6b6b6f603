import dataclasses
import json
from typing import Any

import pytest

from verifier.commitment import (
    Inclusion,
    SubjectInclusion,
    check_inclusion,
    check_subject_inclusion,
    read_inclusion,
    read_subject_inclusion,
    sample_leaf,
    subject_commitment,
    subject_leaf,
)
from verifier.errors import Malformed, Mismatch
from verifier.merkle import node_hash

MINE, OTHER = (sample_leaf(bytes([number]) * 32, "scans", f"scan-{number}") for number in (1, 2))
ROOT = node_hash(MINE, OTHER)
PROOF = Inclusion(
    report_id="a-report", dataset="scans", sample_id="scan-1", salt=b"\x01" * 32, index=0, size=2, path=(OTHER,)
)


def test_a_proof_survives_its_file_and_holds() -> None:
    read = read_inclusion(json.dumps(PROOF.to_json()).encode())
    assert read == PROOF
    check_inclusion(read, root=ROOT, size=2)


def test_a_proof_about_a_person_survives_its_file_and_holds_for_this_person_alone() -> None:
    given = {"report_id": "a-report", "salt": b"\x01" * 32, "index": 0, "size": 2, "path": (OTHER,)}
    proof = SubjectInclusion(subject="ann@example.org", opening=b"\x07" * 32, **given)
    root = node_hash(subject_leaf(proof.salt, subject_commitment(proof.opening, proof.subject)), OTHER)
    assert read_subject_inclusion(json.dumps(proof.to_json()).encode()) == proof
    check_subject_inclusion(proof, root=root, size=2)
    wrong: list[dict[str, Any]] = [{"subject": "bob"}, {"opening": b"\x08" * 32}, {"salt": b"\x02" * 32}, {"index": 1}]
    for change in wrong:
        with pytest.raises(Mismatch):
            check_subject_inclusion(dataclasses.replace(proof, **change), root=root, size=2)
    for data in (PROOF.to_json(), proof.to_json() | {"opening": "07"}, proof.to_json() | {"opening": None}):
        with pytest.raises(Malformed):
            read_subject_inclusion(json.dumps(data).encode())
    with pytest.raises(Malformed):
        read_inclusion(json.dumps(proof.to_json()).encode())


@pytest.mark.parametrize(
    "change",
    [
        {"sample_id": "scan-2"},
        {"dataset": "other"},
        {"salt": b"\x02" * 32},
        {"index": 1},
        {"size": 3},
        {"path": ()},
        {"path": (MINE,)},
    ],
)
def test_a_proof_about_anything_else_does_not_hold(change: dict[str, object]) -> None:
    changed = dataclasses.replace(PROOF, **change)  # type: ignore[arg-type]  # one of its fields
    with pytest.raises(Mismatch):
        check_inclusion(changed, root=ROOT, size=2)


def test_the_dataset_and_the_id_cannot_run_into_each_other() -> None:
    assert sample_leaf(bytes(32), "ab", "c") != sample_leaf(bytes(32), "a", "bc")


@pytest.mark.parametrize(
    "data", [b"", b"{", b"[]", b"{}", json.dumps(PROOF.to_json() | {"salt": "00"}).encode(), b'{"type": "other"}']
)
def test_what_is_no_proof_is_refused(data: bytes) -> None:
    with pytest.raises(Malformed):
        read_inclusion(data)
