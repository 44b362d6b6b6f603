"""Public signing keys (Ed25519): read them from a file, and compute their ids."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_public_key

from verifier.errors import UNREADABLE, Malformed, Revoked, read_json


@dataclass(frozen=True, slots=True, kw_only=True)
class TrustedKey:
    """A public key that the person who checks trusts. revoked_at: RFC 3339, if its file says that it is revoked."""

    key_id: str
    public: Ed25519PublicKey
    revoked_at: str | None = None
    revocation_reason: str | None = None


def key_id(public: Ed25519PublicKey) -> str:
    """Compute the SHA-256, hex, of the key's SubjectPublicKeyInfo: `openssl pkey -pubin -in key.pem -outform DER | sha256sum`."""
    return hashlib.sha256(public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).hexdigest()


def pem(public: Ed25519PublicKey) -> str:
    """Return the key as PEM text."""
    return public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()


def read_public_key(text: str) -> Ed25519PublicKey:
    """Read an Ed25519 public key from PEM text. Raises Malformed for anything else."""
    try:
        public = load_pem_public_key(text.encode())
    except (ValueError, UnsupportedAlgorithm) as error:
        raise Malformed("The key is not a public key in PEM form.") from error
    if not isinstance(public, Ed25519PublicKey):
        raise Malformed("The key is not an Ed25519 key.")
    return public


def read_keys(data: bytes) -> list[TrustedKey]:
    """Read the keys of a file: one key as PEM, or the JSON of GET /keys, which lists revocations. Raises Malformed."""
    try:
        text = data.decode()
        if text.lstrip().startswith("-----BEGIN"):
            public = read_public_key(text)
            return [TrustedKey(key_id=key_id(public), public=public)]
        return [_listed(item) for item in read_json(text)["items"]]
    except UNREADABLE as error:
        raise Malformed("The file of keys is neither PEM nor the JSON of GET /keys.") from error


def choose_valid(signers: Sequence[TrustedKey]) -> TrustedKey:
    """Choose a key that is not revoked among those that signed. Raises Revoked, whatever date the signed content has.

    A key that comes from two lists, one of them older than its revocation, is revoked: an older list must not bring it back. A
    thief could write any date.
    """
    revoked = {key.key_id: key for key in signers if key.revoked_at is not None}
    good = next((key for key in signers if key.key_id not in revoked), None)
    if good is not None:
        return good
    key = next(iter(revoked.values()))
    why = f" ({key.revocation_reason})" if key.revocation_reason else ""
    raise Revoked(f"The key {key.key_id} was revoked at {key.revoked_at}{why}: nothing signed with it is proven.")


def named(keys: Sequence[TrustedKey]) -> str:
    """Name the keys by the first 12 digits of their ids, for a message."""
    return ", ".join(key.key_id[:12] for key in keys) or "none"


def _listed(item: dict[str, str | None]) -> TrustedKey:
    public = read_public_key(str(item["public_key"]))
    if item["key_id"] != key_id(public):
        raise Malformed(f"The key listed as {item['key_id']} has another id.")
    return TrustedKey(
        key_id=key_id(public),
        public=public,
        revoked_at=item.get("revoked_at"),
        revocation_reason=item.get("revocation_reason"),
    )
