"""Commitments: prove to one person that their sample is in a job's commitment, without revealing any other sample."""

import json
from dataclasses import dataclass
from typing import Any

from verifier.errors import Malformed, Mismatch
from verifier.merkle import included, leaf_hash

TYPE = "https://expunge.dev/proofs/inclusion/v1"
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
            "report_id": self.report_id,
            "dataset": self.dataset,
            "sample_id": self.sample_id,
            "salt": self.salt.hex(),
            "leaf_index": self.index,
            "tree_size": self.size,
            "path": [step.hex() for step in self.path],
        }


def sample_leaf(salt: bytes, dataset: str, sample_id: str) -> bytes:
    """Hash a sample to its leaf, 32 bytes. Each sample has its own salt, so that nobody can guess IDs from leaves."""
    return leaf_hash(salt + dataset.encode() + b"\0" + sample_id.encode())


def read_inclusion(data: bytes) -> Inclusion:
    """Read a proof of inclusion from its file. Raises Malformed."""
    try:
        content = json.loads(data)
        if content["type"] != TYPE:
            raise Malformed(f"The proof of inclusion is of the type {content['type']!r}, not {TYPE!r}.")
        proof = Inclusion(
            report_id=str(content["report_id"]),
            dataset=str(content["dataset"]),
            sample_id=str(content["sample_id"]),
            salt=bytes.fromhex(content["salt"]),
            index=int(content["leaf_index"]),
            size=int(content["tree_size"]),
            path=tuple(bytes.fromhex(step) for step in content["path"]),
        )
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise Malformed(f"The proof of inclusion cannot be read: {type(error).__name__}.") from error
    if len(proof.salt) != SALT_BYTES or any(len(step) != SALT_BYTES for step in proof.path):
        raise Malformed(f"The salt and each step of the path must be {SALT_BYTES} bytes long.")
    return proof


def check_inclusion(proof: Inclusion, *, root: bytes, size: int) -> None:
    """Check a proof against the root, 32 bytes, and the size of a statement's commitment. Raises Mismatch."""
    leaf = sample_leaf(proof.salt, proof.dataset, proof.sample_id)
    if proof.size != size or not included(leaf, index=proof.index, size=size, path=proof.path, root=root):
        raise Mismatch("The proof does not show that the sample is in this statement's commitment.")
