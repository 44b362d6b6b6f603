"""Proving to one person that their sample is in a job's manifest, without showing any other."""

import json
from dataclasses import dataclass
from typing import Any

from verifier.errors import Malformed, Mismatch
from verifier.merkle import included, leaf_hash

TYPE = "https://expunge.dev/proofs/inclusion/v1"
SALT_BYTES = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class Inclusion:
    """A sample's place in a manifest: what the person is handed. `path` goes from the leaf to the root."""

    report_id: str
    dataset: str
    sample_id: str
    salt: bytes
    index: int
    size: int
    path: tuple[bytes, ...]

    def to_json(self) -> dict[str, Any]:
        """The proof as a file."""
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
    """The hash of a sample's leaf, 32 bytes: over a salt of its own, so that nobody can try IDs against it."""
    return leaf_hash(salt + dataset.encode() + b"\0" + sample_id.encode())


def read_inclusion(data: bytes) -> Inclusion:
    """Read a proof from its file. Raises Malformed."""
    try:
        proof = json.loads(data)
        if proof["type"] != TYPE:
            raise Malformed(f"The proof of inclusion is of the type {proof['type']!r}, not {TYPE!r}.")
        found = Inclusion(
            report_id=str(proof["report_id"]),
            dataset=str(proof["dataset"]),
            sample_id=str(proof["sample_id"]),
            salt=bytes.fromhex(proof["salt"]),
            index=int(proof["leaf_index"]),
            size=int(proof["tree_size"]),
            path=tuple(bytes.fromhex(step) for step in proof["path"]),
        )
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise Malformed(f"The proof of inclusion cannot be read: {type(error).__name__}.") from error
    if len(found.salt) != SALT_BYTES or any(len(step) != SALT_BYTES for step in found.path):
        raise Malformed(f"The salt and each step of the path must be {SALT_BYTES} bytes long.")
    return found


def check_inclusion(proof: Inclusion, *, root: bytes, size: int) -> None:
    """Check a proof against the root and the size that a statement commits to. Raises Mismatch."""
    leaf = sample_leaf(proof.salt, proof.dataset, proof.sample_id)
    if proof.size != size or not included(leaf, index=proof.index, size=size, path=proof.path, root=root):
        raise Mismatch("The sample is not shown to be in this statement's manifest.")
