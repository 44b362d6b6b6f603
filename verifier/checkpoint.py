"""Checkpoints of the log: signed notes (c2sp.org/signed-note, c2sp.org/tlog-checkpoint), with Ed25519."""

import base64
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from verifier.errors import BadSignature, Malformed, Mismatch
from verifier.keys import TrustedKey, named, refuse_revoked
from verifier.merkle import consistent

_DASH = "\N{EM DASH} "
_ED25519 = b"\x01"


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """How far a log was: its name, how many leaves it had, and the root over them, 32 bytes."""

    origin: str
    size: int
    root: bytes

    @property
    def text(self) -> str:
        """What is signed."""
        return f"{self.origin}\n{self.size}\n{base64.b64encode(self.root).decode()}\n"


def sign_note(text: str, *, name: str, public: Ed25519PublicKey, sign: Callable[[bytes], bytes]) -> str:
    """A text with a signature line; `name` is the signer's, without spaces."""
    signature = base64.b64encode(_hint(name, public) + sign(text.encode())).decode()
    return f"{text}\n{_DASH}{name} {signature}\n"


def open_note(note: bytes, *, keys: Sequence[TrustedKey], name: str | None = None) -> tuple[str, TrustedKey]:
    """The text of a note that one of the keys has signed under `name` (by default its first line), and that key.

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
            f"None of the given keys ({named(keys)}) has signed this note: it was changed, or another did."
        )
    good = [key for key in found if key.revoked_at is None]
    if not good:
        refuse_revoked(found[0])
    return text, good[0]


def read_checkpoint(note: bytes, *, keys: Sequence[TrustedKey]) -> Checkpoint:
    """A signed checkpoint. Raises Malformed, BadSignature, Revoked."""
    text, _ = open_note(note, keys=keys)
    try:
        origin, size, root = text.splitlines()[:3]
        found = Checkpoint(origin=origin, size=int(size), root=base64.b64decode(root, validate=True))
    except ValueError as error:
        raise Malformed("It is signed, but it is no checkpoint of a log.") from error
    if len(found.root) != 32 or found.size < 0 or str(found.size) != size:
        raise Malformed("It is signed, but it is no checkpoint of a log.")
    return found


def check_consistency(older: Checkpoint, newer: Checkpoint, path: Sequence[bytes]) -> None:
    """Check that the log has only grown from one checkpoint to another. Raises Mismatch."""
    if older.origin != newer.origin:
        raise Mismatch(f"These are checkpoints of two logs: {older.origin} and {newer.origin}.")
    if older.size > newer.size:
        raise Mismatch(f"The log has shrunk: it had {older.size} entries and has {newer.size}.")
    grown = consistent(first=older.size, second=newer.size, first_root=older.root, second_root=newer.root, path=path)
    if not grown:
        raise Mismatch(f"The first {older.size} entries of the log are not what they were.")


def _hint(name: str, public: Ed25519PublicKey) -> bytes:
    """The four bytes before a signature that say which key may have made it."""
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
