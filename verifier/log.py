"""Entries of the log: what is in their leaves, and proving that one is in the log.

A leaf holds a kind, a time, and a keyed hash of what was recorded. Who has the key can show what the hash stands for; once the
key is erased nobody can, and the tree is what it was.
"""

import base64
import hmac
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from verifier.checkpoint import Checkpoint, read_checkpoint
from verifier.errors import Malformed, Mismatch
from verifier.keys import TrustedKey
from verifier.merkle import included, leaf_hash, root_hash

TYPE = "https://expunge.dev/proofs/log/v1"


@dataclass(frozen=True, slots=True, kw_only=True)
class LogProof:
    """One entry of the log with what shows it: `content` and `key` open the leaf, the path leads to the checkpoint's root.

    `content` is the text of the JSON that was recorded, byte by byte.
    """

    leaf: bytes
    content: str
    key: bytes
    index: int
    path: tuple[bytes, ...]
    checkpoint: str

    def to_json(self) -> dict[str, Any]:
        """The proof as a file."""
        return {
            "type": TYPE,
            "leaf": base64.b64encode(self.leaf).decode(),
            "content": self.content,
            "key": self.key.hex(),
            "leaf_index": self.index,
            "path": [step.hex() for step in self.path],
            "checkpoint": self.checkpoint,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """An entry that is shown to be in the log: its kind, when it was written (RFC 3339), its content, and how far the log was."""

    kind: str
    at: str
    content: Mapping[str, Any]
    index: int
    checkpoint: Checkpoint


def commitment(key: bytes, content: str) -> str:
    """HMAC-SHA256, hex: what a leaf holds in place of its content."""
    return hmac.digest(key, content.encode(), "sha256").hex()


def read_log_proof(data: bytes) -> LogProof:
    """Read a proof from its file. Raises Malformed."""
    try:
        proof = json.loads(data)
        if proof["type"] != TYPE:
            raise Malformed(f"The proof is of the type {proof['type']!r}, not {TYPE!r}.")
        return LogProof(
            leaf=base64.b64decode(proof["leaf"], validate=True),
            content=str(proof["content"]),
            key=bytes.fromhex(proof["key"]),
            index=int(proof["leaf_index"]),
            path=tuple(bytes.fromhex(step) for step in proof["path"]),
            checkpoint=str(proof["checkpoint"]),
        )
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise Malformed(f"The proof from the log cannot be read: {type(error).__name__}.") from error


def check_entry(proof: LogProof, *, keys: Sequence[TrustedKey]) -> Entry:
    """The entry that a proof shows to be in the log. Raises Malformed, BadSignature, Revoked, Mismatch."""
    checkpoint = read_checkpoint(proof.checkpoint.encode(), keys=keys)
    leaf = leaf_hash(proof.leaf)
    if not included(leaf, index=proof.index, size=checkpoint.size, path=proof.path, root=checkpoint.root):
        raise Mismatch("The entry is not shown to be in the log.")
    try:
        said = json.loads(proof.leaf)
        content = json.loads(proof.content)
        if not hmac.compare_digest(str(said["commitment"]), commitment(proof.key, proof.content)):
            raise Mismatch("What the entry is said to stand for is not what the log holds.")
        entry = Entry(
            kind=str(said["kind"]), at=str(said["at"]), content=dict(content), index=proof.index, checkpoint=checkpoint
        )
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise Malformed("It is in the log, but it is no entry that this program can read.") from error
    return entry


def check_leaves(checkpoint: Checkpoint, leaves: Sequence[bytes]) -> None:
    """Check that these are all leaves of the log at a checkpoint. Raises Mismatch."""
    if len(leaves) != checkpoint.size or root_hash([leaf_hash(leaf) for leaf in leaves]) != checkpoint.root:
        raise Mismatch(f"These {len(leaves)} leaves are not those of the checkpoint at {checkpoint.size}.")
