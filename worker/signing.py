"""The private signing keys: files that only the worker and the operator's commands can read."""

import os
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key
from sqlalchemy.orm import Session, sessionmaker

from ledger.signing_keys import usable_signing_keys
from verifier.checkpoint import Checkpoint, sign_note
from verifier.dsse import envelope
from verifier.keys import key_id, pem
from worker.errors import NoSigningKey


@dataclass(frozen=True, slots=True)
class Signer:
    """A private key, and its id."""

    key_id: str
    private: Ed25519PrivateKey = field(repr=False)

    def envelope(self, payload_type: str, payload: bytes) -> dict[str, Any]:
        """Sign a payload into a DSSE envelope."""
        return envelope(payload_type, payload, key_id=self.key_id, sign=self.private.sign)

    def checkpoint(self, checkpoint: Checkpoint) -> str:
        """Sign a checkpoint of the log into a note."""
        return sign_note(
            checkpoint.text, name=checkpoint.origin, public=self.private.public_key(), sign=self.private.sign
        )


@dataclass(frozen=True, slots=True)
class NewKey:
    """A key that was made: its id, and its public half as PEM."""

    key_id: str
    public_key: str


def make_key(folder: Path) -> NewKey:
    """Make a key and write its private half into the folder, readable by its owner alone."""
    private = Ed25519PrivateKey.generate()
    public = private.public_key()
    made = NewKey(key_id(public), pem(public))
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    text = private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    with os.fdopen(os.open(_path(folder, made.key_id), os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    return made


def discard_key(folder: Path, identifier: str) -> bool:
    """Delete a private key; tells whether it was there."""
    path = _path(folder, identifier)
    there = path.exists()
    path.unlink(missing_ok=True)
    return there


def find_signer(sessions: sessionmaker[Session], folder: Path | None) -> Signer | None:
    """The key that is to sign now; None where no folder is set, so that nothing is to be signed. Raises NoSigningKey."""
    if folder is None:
        return None
    with sessions.begin() as session:
        usable = usable_signing_keys(session)
    return load_signer(folder, usable)


def load_signer(folder: Path, usable: Collection[str]) -> Signer:
    """The first of the usable keys, by their ids, whose private half is in the folder.

    Raises NoSigningKey where there is none, or where its file is not what it should be, or can be read by others.
    """
    for identifier in usable:
        path = _path(folder, identifier)
        try:
            if path.exists():
                return Signer(identifier, _read(path, identifier))
        except OSError as error:
            raise NoSigningKey(f"The signing key {identifier[:12]} cannot be read: {error.strerror}.") from error
    raise NoSigningKey(
        "Results are to be signed (EXPUNGE_SIGNING_KEYS is set), but the folder has no private key that is registered and "
        "not revoked. Make one with `expunge signing-keys new`, then retry the job."
    )


def _read(path: Path, identifier: str) -> Ed25519PrivateKey:
    if path.stat().st_mode & 0o077:
        raise NoSigningKey(f"The signing key {identifier[:12]} can be read by others than its owner: chmod 600.")
    try:
        private = load_pem_private_key(path.read_bytes(), password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise NoSigningKey(f"The signing key {identifier[:12]} cannot be read: {type(error).__name__}.") from error
    if not isinstance(private, Ed25519PrivateKey) or key_id(private.public_key()) != identifier:
        raise NoSigningKey(f"The file of the signing key {identifier[:12]} holds another key.")
    return private


def _path(folder: Path, identifier: str) -> Path:
    return folder / f"{identifier}.pem"
