"""The transparency log: log checkpoints (c2sp.org/tlog-checkpoint, signed notes with Ed25519) and proofs of its entries."""

import base64
import hashlib
import hmac
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from verifier.errors import UNREADABLE, BadSignature, Malformed, Mismatch, read_json, require_type, unreadable
from verifier.keys import TrustedKey, choose_valid, named
from verifier.merkle import consistent, included, leaf_hash, root_hash

TYPE = "https://expunge.dev/proofs/log/v1"

_DASH = "\N{EM DASH} "
_ED25519 = b"\x01"


@dataclass(frozen=True, slots=True, kw_only=True)
class TreeHead:
    """The head of a log; signed, it is a log checkpoint.

    origin: the log's name. size: number of leaves. root: of the tree over them, 32 bytes.
    """

    origin: str
    size: int
    root: bytes

    @property
    def text(self) -> str:
        """The text that is signed."""
        return f"{self.origin}\n{self.size}\n{base64.b64encode(self.root).decode()}\n"


def sign_note(text: str, *, name: str, public: Ed25519PublicKey, sign: Callable[[bytes], bytes]) -> str:
    """Sign a text and return it as a signed note (c2sp.org/signed-note). name: the signer's, without spaces."""
    signature = base64.b64encode(_hint(name, public) + sign(text.encode())).decode()
    return f"{text}\n{_DASH}{name} {signature}\n"


def open_note(note: bytes, *, keys: Sequence[TrustedKey], name: str | None = None) -> tuple[str, TrustedKey]:
    """Return the text of a note that one of the keys signed under `name` (default: its first line), and that key.

    Raises Malformed, BadSignature, Revoked.
    """
    try:
        text, _, lines = note.decode().rpartition("\n\n")
        text += "\n"
        rows = [_signature(line) for line in lines.splitlines()]
    except ValueError as error:
        raise Malformed("The file is not a signed note, or it is not complete.") from error
    if not lines or not note.endswith(b"\n"):
        raise Malformed("The file is not a signed note, or it is not complete.")
    signer = name or text.partition("\n")[0]
    found = [key for key in keys for who, raw in rows if who == signer and _is_good(key, signer, raw, text)]
    if not found:
        raise BadSignature(
            f"None of the given keys ({named(keys)}) signed this note: it was changed, or another key signed it."
        )
    return text, choose_valid(found)


def read_log_checkpoint(note: bytes, *, keys: Sequence[TrustedKey]) -> TreeHead:
    """Read a signed log checkpoint. Raises Malformed, BadSignature, Revoked."""
    text, _ = open_note(note, keys=keys)
    try:
        origin, size, root = text.splitlines()[:3]
        found = TreeHead(origin=origin, size=int(size), root=base64.b64decode(root, validate=True))
    except ValueError as error:
        raise Malformed("It is signed, but it is not a log checkpoint.") from error
    if len(found.root) != 32 or found.size < 0 or str(found.size) != size:
        raise Malformed("It is signed, but it is not a log checkpoint.")
    return found


def check_consistency(older: TreeHead, newer: TreeHead, path: Sequence[bytes]) -> None:
    """Check that the log only grew from one log checkpoint to another. Raises Mismatch."""
    if older.origin != newer.origin:
        raise Mismatch(
            f"These are log checkpoints of two logs: {older.origin} and {newer.origin}. After a restore from a backup that the "
            "operator has announced, check with --after-restore."
        )
    if older.size > newer.size:
        raise Mismatch(f"The log has shrunk: it had {older.size} entries and has {newer.size}.")
    grown = consistent(first=older.size, second=newer.size, first_root=older.root, second_root=newer.root, path=path)
    if not grown:
        raise Mismatch(f"The first {older.size} entries of the log have changed.")


@dataclass(frozen=True, slots=True, kw_only=True)
class LogProof:
    """An entry of the log with its proof.

    content, key: the recorded JSON text, byte by byte, and the key of its HMAC in the leaf. path: from the leaf to the root of the
    log checkpoint, 32-byte hashes. checkpoint: the signed note of the log checkpoint.
    """

    leaf: bytes
    content: str
    key: bytes
    index: int
    path: tuple[bytes, ...]
    checkpoint: str

    def to_json(self) -> dict[str, Any]:
        """Return the content of the proof's file."""
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
    """An entry proven to be in the log. at: when it was written, RFC 3339. checkpoint: the log checkpoint of the proof."""

    kind: str
    at: str
    content: Mapping[str, Any]
    index: int
    checkpoint: TreeHead


def content_hmac(key: bytes, content: str) -> str:
    """Compute the HMAC-SHA256, hex, that a leaf holds in place of its content (its field "commitment")."""
    return hmac.digest(key, content.encode(), "sha256").hex()


def read_log_proof(data: bytes) -> LogProof:
    """Read the proof of an entry from its file. Raises Malformed."""
    try:
        proof = read_json(data)
        require_type("The proof from the log", proof, TYPE)
        return LogProof(
            leaf=base64.b64decode(proof["leaf"], validate=True),
            content=str(proof["content"]),
            key=bytes.fromhex(proof["key"]),
            index=int(proof["leaf_index"]),
            path=tuple(bytes.fromhex(step) for step in proof["path"]),
            checkpoint=str(proof["checkpoint"]),
        )
    except UNREADABLE as error:
        raise unreadable("The proof from the log", error) from error


def check_entry(proof: LogProof, *, keys: Sequence[TrustedKey]) -> Entry:
    """Check a proof and return its entry. Raises Malformed, BadSignature, Revoked, Mismatch."""
    checkpoint = read_log_checkpoint(proof.checkpoint.encode(), keys=keys)
    leaf = leaf_hash(proof.leaf)
    if not included(leaf, index=proof.index, size=checkpoint.size, path=proof.path, root=checkpoint.root):
        raise Mismatch("The proof does not show that the entry is in the log.")
    try:
        leaf_content = read_json(proof.leaf)
        content = read_json(proof.content)
        if not hmac.compare_digest(str(leaf_content["commitment"]), content_hmac(proof.key, proof.content)):
            raise Mismatch("The given content is not the content that the log recorded.")
        entry = Entry(
            kind=str(leaf_content["kind"]),
            at=str(leaf_content["at"]),
            content=dict(content),
            index=proof.index,
            checkpoint=checkpoint,
        )
    except UNREADABLE as error:
        raise Malformed("It is in the log, but this program cannot read the entry.") from error
    return entry


def check_leaves(checkpoint: TreeHead, leaves: Sequence[bytes]) -> None:
    """Check that these are all leaves of the log at a log checkpoint. Raises Mismatch."""
    if len(leaves) != checkpoint.size or root_hash([leaf_hash(leaf) for leaf in leaves]) != checkpoint.root:
        raise Mismatch(f"These {len(leaves)} leaves are not those of the log checkpoint with {checkpoint.size}.")


def _hint(name: str, public: Ed25519PublicKey) -> bytes:
    """Compute the four bytes before a signature that hint at its key."""
    return hashlib.sha256(name.encode() + b"\n" + _ED25519 + public.public_bytes_raw()).digest()[:4]


def _signature(line: str) -> tuple[str, bytes]:
    if not line.startswith(_DASH):
        raise ValueError("a signature line begins with an em dash")
    name, _, text = line.removeprefix(_DASH).partition(" ")
    return name, base64.b64decode(text, validate=True)


def _is_good(key: TrustedKey, name: str, raw: bytes, text: str) -> bool:
    if raw[:4] != _hint(name, key.public):
        return False
    try:
        key.public.verify(raw[4:], text.encode())
    except InvalidSignature:
        return False
    return True
