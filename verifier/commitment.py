"""Commitments: prove to one person that they, or one of their samples, are in a job's commitment, and reveal nobody else."""

import hashlib
from dataclasses import dataclass
from typing import Any

from verifier.errors import UNREADABLE, Malformed, Mismatch, read_json, require_type, unreadable
from verifier.merkle import included, leaf_hash

TYPE = "https://expunge.dev/proofs/inclusion/v1"
SUBJECT_TYPE = "https://expunge.dev/proofs/subject-inclusion/v1"
SALT_BYTES = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class Inclusion:
    """A proof that a sample is in a commitment, as the person receives it.

    salt: 32 bytes. index, size: the leaf's number, from 0, and how many leaves there are. path: 32-byte hashes from leaf to root.
    """

    report_id: str
    dataset: str
    sample_id: str
    salt: bytes
    index: int
    size: int
    path: tuple[bytes, ...]

    def to_json(self) -> dict[str, Any]:
        """Return the content of the proof's file."""
        return {
            "type": TYPE,
            "dataset": self.dataset,
            "sample_id": self.sample_id,
            **_to_json(self),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class SubjectInclusion:
    """A proof that a person is among those whose erasure a report is about, as the person receives it.

    opening: 32 bytes, which belong to this person alone. The others as for a sample.
    """

    report_id: str
    subject: str
    opening: bytes
    salt: bytes
    index: int
    size: int
    path: tuple[bytes, ...]

    def to_json(self) -> dict[str, Any]:
        """Return the content of the proof's file."""
        return {
            "type": SUBJECT_TYPE,
            "subject": self.subject,
            "opening": self.opening.hex(),
            **_to_json(self),
        }


def _to_json(proof: Inclusion | SubjectInclusion) -> dict[str, Any]:
    return {
        "report_id": proof.report_id,
        "salt": proof.salt.hex(),
        "leaf_index": proof.index,
        "tree_size": proof.size,
        "path": [step.hex() for step in proof.path],
    }


def subject_commitment(opening: bytes, subject: str) -> bytes:
    """Commit to a person, 32 bytes. Without the opening nobody can try names."""
    return hashlib.sha256(opening + subject.encode()).digest()


def subject_leaf(salt: bytes, commitment: bytes) -> bytes:
    """Hash a commitment to a person to its leaf, 32 bytes. With its own salt it is another in each report."""
    return leaf_hash(salt + commitment)


def sample_leaf(salt: bytes, dataset: str, sample_id: str) -> bytes:
    """Hash a sample to its leaf, 32 bytes. Each sample has its own salt, so that nobody can guess IDs from leaves."""
    return leaf_hash(salt + dataset.encode() + b"\0" + sample_id.encode())


def read_inclusion(data: bytes) -> Inclusion:
    """Read a proof that a sample is included from its file. Raises Malformed."""
    content, shared = _read(data, TYPE)
    try:
        return Inclusion(dataset=str(content["dataset"]), sample_id=str(content["sample_id"]), **shared)
    except KeyError as error:
        raise unreadable("The proof of inclusion", error) from error


def read_subject_inclusion(data: bytes) -> SubjectInclusion:
    """Read a proof that a person is included from its file. Raises Malformed."""
    content, shared = _read(data, SUBJECT_TYPE)
    try:
        opening = bytes.fromhex(content["opening"])
        proof = SubjectInclusion(subject=str(content["subject"]), opening=opening, **shared)
    except UNREADABLE as error:
        raise unreadable("The proof of inclusion", error) from error
    if len(opening) != SALT_BYTES:
        raise Malformed(f"The opening must be {SALT_BYTES} bytes long.")
    return proof


def _read(data: bytes, kind: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Read a proof: its whole content, and the arguments that every proof has."""
    try:
        content = read_json(data)
        require_type("The proof of inclusion", content, kind)
        salt, path = bytes.fromhex(content["salt"]), tuple(bytes.fromhex(step) for step in content["path"])
        place = {"index": int(content["leaf_index"]), "size": int(content["tree_size"]), "path": path}
        shared = {"report_id": str(content["report_id"]), "salt": salt, **place}
    except UNREADABLE as error:
        raise unreadable("The proof of inclusion", error) from error
    if len(salt) != SALT_BYTES or any(len(step) != SALT_BYTES for step in path):
        raise Malformed(f"The salt and each step of the path must be {SALT_BYTES} bytes long.")
    return content, shared


def check_inclusion(proof: Inclusion, *, root: bytes, size: int) -> None:
    """Check a proof against the root, 32 bytes, and the size of a statement's commitment. Raises Mismatch."""
    if not _holds(proof, sample_leaf(proof.salt, proof.dataset, proof.sample_id), root=root, size=size):
        raise Mismatch("The proof does not show that the sample is in this statement's commitment.")


def check_subject_inclusion(proof: SubjectInclusion, *, root: bytes, size: int) -> None:
    """Check a proof against the root, 32 bytes, and the size of a statement's commitment to people. Raises Mismatch."""
    leaf = subject_leaf(proof.salt, subject_commitment(proof.opening, proof.subject))
    if not _holds(proof, leaf, root=root, size=size):
        raise Mismatch("The proof does not show that the person is in this statement's commitment.")


def _holds(proof: Inclusion | SubjectInclusion, leaf: bytes, *, root: bytes, size: int) -> bool:
    return proof.size == size and included(leaf, index=proof.index, size=size, path=proof.path, root=root)
