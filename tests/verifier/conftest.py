"""Statements signed with keys made on the spot, about the report of a job that never ran."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from ledger.sample_ids import sample_digest
from ledger.transparency.commitments import Commitment, commit_samples
from ledger.transparency.merkle import inclusion_path
from report.document import read
from tests.report.recorded import stored
from unlearning.files import file_sha256
from verifier.commitment import Inclusion
from verifier.keys import key_id, pem
from verifier.log import LogProof, TreeHead, content_hmac
from verifier.merkle import leaf_hash
from verifier.statement import envelope
from worker.signing import Signer, sign_statement

NAMES = [f"scan-{number}" for number in range(5)]


def make_signer() -> Signer:
    private = Ed25519PrivateKey.generate()
    return Signer(key_id(private.public_key()), private, folder=Path("/nowhere"))


def sign_envelope(signer: Signer, payload_type: str, payload: bytes) -> dict[str, Any]:
    """A payload as the service signs it: in a DSSE envelope."""
    return envelope(payload_type, payload, key_id=signer.key_id, sign=signer.private.sign)


@dataclass(frozen=True)
class Case:
    """The files that an auditor has: statement, key, report, weights, and one person's proof."""

    folder: Path
    signer: Signer
    commitment: Commitment

    def path(self, name: str) -> Path:
        return self.folder / name


def write_case(folder: Path, *, signer: Signer, seed: int = 0) -> Case:
    """Write everything about one job into a folder."""
    folder.mkdir(exist_ok=True)
    (folder / "weights.safetensors").write_bytes(b"weights after %d" % seed)
    (folder / "before.safetensors").write_bytes(b"weights before %d" % seed)
    commitment = commit_samples("scans", NAMES, key=bytes(32))
    report = stored("inconclusive") | {"report_id": f"0197f3a2-5b1c-7d40-9c1e-{seed:012d}"}
    report["asked"]["manifest_root"] = commitment.root
    for side, name in (("after", "weights"), ("before", "before")):
        report["model"][f"weights_{side}_sha256"] = file_sha256(folder / f"{name}.safetensors")
    document = read(report)
    statement = sign_statement(document, signer=signer)
    leaves = [leaf.hash for leaf in commitment.leaves]
    mine = sample_digest(bytes(32), "scans", NAMES[2])
    place = next(place for place, leaf in enumerate(commitment.leaves) if leaf.digest == mine)
    proof = Inclusion(
        report_id=report["report_id"],
        dataset="scans",
        sample_id=NAMES[2],
        salt=commitment.leaves[place].salt,
        index=place,
        size=len(leaves),
        path=tuple(inclusion_path(leaves, place, len(leaves))),
    )
    (folder / "log-entry.json").write_text(json.dumps(write_log(signer, report_sha256=document.sha256).to_json()))
    (folder / "report.json").write_bytes(document.content)
    (folder / "statement.json").write_text(json.dumps(statement))
    (folder / "inclusion.json").write_text(json.dumps(proof.to_json()))
    (folder / "key.pem").write_text(pem(signer.private.public_key()))
    return Case(folder, signer, commitment)


def write_log(signer: Signer, *, report_sha256: str) -> LogProof:
    """The proof of an entry about a report, from a log of one entry."""
    content, key = json.dumps({"report": {"sha256": report_sha256}}), bytes(32)
    entry = {"kind": "result", "at": "2026-03-14T09:31:08+00:00", "commitment": content_hmac(key, content)}
    leaf = json.dumps(entry).encode()
    checkpoint = signer.checkpoint(TreeHead(origin="example.com/log", size=1, root=leaf_hash(leaf)))
    return LogProof(leaf=leaf, content=content, key=key, index=0, path=(), checkpoint=checkpoint)


@pytest.fixture
def case(tmp_path: Path) -> Case:
    return write_case(tmp_path / "case", signer=make_signer())
