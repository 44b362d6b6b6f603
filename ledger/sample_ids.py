"""Hashing of sample IDs and subjects. They are personal data, so the ledger stores only keyed hashes of them."""

import hashlib
import hmac
from collections.abc import Iterable
from typing import Annotated

from pydantic import AfterValidator, SecretStr

from report.canonical import canonical_sha256
from verifier.commitment import subject_commitment

KEY_BYTES = 32

KEY_HEADER = "Expunge-Sample-Key"
"""The header of a list of hashes with the fingerprint of the key that they are hashed under."""


def parse_sample_key(text: str) -> bytes:
    """Read the key of the hash from its hexadecimal digits. Raises ValueError, which does not quote them.

    After rotations it is several keys of KEY_BYTES bytes one after the other, the oldest first (docs/decisions/0030).
    """
    try:
        key = bytes.fromhex(text)
    except ValueError:
        key = b""
    if not key or len(key) % KEY_BYTES:
        raise ValueError(
            f"must be {2 * KEY_BYTES} hex digits ({KEY_BYTES} bytes), and as many more for each rotation, and nothing else"
        )
    if len(set(split_key(key))) * KEY_BYTES != len(key):
        raise ValueError("has the same digits twice: each rotation adds a new key")
    return key


def split_key(key: bytes) -> list[bytes]:
    """Split a key into the single keys, the oldest first."""
    return [key[place : place + KEY_BYTES] for place in range(0, len(key), KEY_BYTES)]


def earlier_keys(key: bytes) -> list[bytes]:
    """List the key as it is and as it was before each rotation, the newest first."""
    return [key[:size] for size in range(len(key), 0, -KEY_BYTES)]


def _check(key: SecretStr) -> SecretStr:
    parse_sample_key(key.get_secret_value())
    return key


SampleKey = Annotated[SecretStr, AfterValidator(_check)]
"""The type of a setting that holds the key."""


def sample_digest(key: bytes, dataset: str, sample_id: str) -> bytes:
    """Hash a sample's ID within its dataset: HMAC-SHA256, 32 bytes. Without the key nobody can test an ID against it."""
    return _digest(key, f"{dataset}\0{sample_id}".encode())


def subject_digest(key: bytes, subject: str) -> bytes:
    """Hash a subject: HMAC-SHA256, 32 bytes. It is the same in all datasets, so that one request can find a person in each of them.

    No sample has this hash: the name of a dataset is not empty, so what is hashed for a sample does not begin with a NUL.
    """
    return _digest(key, f"\0subject\0{subject}".encode())


def subject_opening(key: bytes, subject: str) -> bytes:
    """Derive what a commitment to a subject is opened with, 32 bytes. By the oldest key, so it stays when the key is rotated."""
    return hmac.digest(key[:KEY_BYTES], f"\0opening\0{subject}".encode(), "sha256")


def seal(key: bytes, beside: bytes, value: bytes) -> bytes:
    """Hide 32 bytes that are stored beside other bytes of the same row, or open them again: XOR with an HMAC of those."""
    mask = hmac.digest(key, b"\0seal\0" + beside, "sha256")
    return bytes(one ^ other for one, other in zip(value, mask, strict=True))


def commit_to_subject(key: bytes, subject: str) -> bytes:
    """Commit to a subject, 32 bytes, sealed beside its digest. What a report commits to is made from it."""
    commitment = subject_commitment(subject_opening(key, subject), subject)
    return seal(key, subject_digest(key, subject), commitment)


def key_fingerprint(key: bytes) -> str:
    """Name a key without showing it: 16 hex digits. No sample and no subject has this hash, by its NUL and its label."""
    return _digest(key, b"\0fingerprint\0").hex()[:16]


def _digest(key: bytes, message: bytes) -> bytes:
    found = hmac.digest(key[:KEY_BYTES], message, "sha256")
    return found if len(key) <= KEY_BYTES else rehash(found, key[KEY_BYTES:])


def rehash(digest: bytes, later: bytes) -> bytes:
    """Hash a digest of before one or more rotations on to the keys that came later, the oldest first: an HMAC for each."""
    for key in split_key(later):
        digest = hmac.digest(key, digest, "sha256")
    return digest


def hash_body(body: object, *, key: bytes) -> str:
    """Give the SHA-256 (hex) by which a body is known when it comes again.

    In place of IDs it must have keyed hashes, under the oldest key: a hash of IDs could be tried out by a reader of the ledger.
    Like the hashes there it is hashed on to the later keys, so it outlives a rotation.
    """
    return rehash(bytes.fromhex(canonical_sha256(body)), key[KEY_BYTES:]).hex()


def samples_sha256(digests: Iterable[bytes]) -> str:
    """Commit to a set of samples without naming them: the SHA-256 (hex) of their sorted digests."""
    return joined_sha256(sorted(digests))


def joined_sha256(digests: Iterable[bytes]) -> str:
    """Compute the SHA-256, as hex, of digests one after the other. Holds one at a time in memory."""
    joined = hashlib.sha256()
    for digest in digests:
        joined.update(digest)
    return joined.hexdigest()
