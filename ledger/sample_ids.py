"""Hashing of sample IDs and subjects. They are personal data, so the ledger stores only keyed hashes of them."""

import hashlib
import hmac
from collections.abc import Iterable
from typing import Annotated

from pydantic import AfterValidator, SecretStr

KEY_BYTES = 32


def parse_sample_key(text: str) -> bytes:
    """Read the key of the hash from its hexadecimal digits. Raises ValueError, which does not quote them."""
    try:
        key = bytes.fromhex(text)
    except ValueError:
        key = b""
    if len(key) != KEY_BYTES:
        raise ValueError(f"must be {2 * KEY_BYTES} hex digits ({KEY_BYTES} bytes), and nothing else")
    return key


def _check(key: SecretStr) -> SecretStr:
    parse_sample_key(key.get_secret_value())
    return key


SampleKey = Annotated[SecretStr, AfterValidator(_check)]
"""The type of a setting that holds the key."""


def sample_digest(key: bytes, dataset: str, sample_id: str) -> bytes:
    """Hash a sample's ID within its dataset: HMAC-SHA256, 32 bytes. Without the key nobody can test an ID against it."""
    return hmac.digest(key, f"{dataset}\0{sample_id}".encode(), "sha256")


def subject_digest(key: bytes, subject: str) -> bytes:
    """Hash a subject: HMAC-SHA256, 32 bytes. It is the same in all datasets, so that one request can find a person in each of them.

    No sample has this hash: the name of a dataset is not empty, so what is hashed for a sample does not begin with a NUL.
    """
    return hmac.digest(key, f"\0subject\0{subject}".encode(), "sha256")


def samples_sha256(digests: Iterable[bytes]) -> str:
    """Commit to a set of samples without naming them: the SHA-256 (hex) of their sorted digests."""
    return joined_sha256(sorted(digests))


def joined_sha256(digests: Iterable[bytes]) -> str:
    """Compute the SHA-256, as hex, of digests one after the other. Holds one at a time in memory."""
    joined = hashlib.sha256()
    for digest in digests:
        joined.update(digest)
    return joined.hexdigest()
