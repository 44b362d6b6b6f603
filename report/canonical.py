"""Canonical JSON (RFC 8785): equal content gives equal bytes, and so equal digests, on every machine."""

import hashlib
from typing import Any

import rfc8785

LARGEST_SAFE_INTEGER = 2**53 - 1


class NotCanonical(ValueError):
    """The value has no RFC 8785 form: NaN, infinity, an integer that no double holds, a key or a type that JSON lacks."""


def canonical_json(value: object) -> bytes:
    """Write a value as RFC 8785 (JCS) bytes: UTF-8, no white space, keys sorted by UTF-16 code unit, numbers as in ECMAScript.

    1 and 1.0 give the same bytes, so a digest survives a round trip through a database or a browser. Raises NotCanonical.
    """
    try:
        return rfc8785.dumps(_plain(value))
    except (rfc8785.CanonicalizationError, RecursionError) as error:
        raise NotCanonical(f"the value cannot be written as canonical JSON: {error}") from error


def canonical_sha256(value: object) -> str:
    """Compute the SHA-256 of a value's canonical bytes, as hex. Raises NotCanonical."""
    return hashlib.sha256(canonical_json(value)).hexdigest()


def _plain(value: Any) -> Any:
    # 1e16 is written as 10000000000000000, which reads back as an integer that rfc8785 refuses. It is that double.
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if type(value) is int and LARGEST_SAFE_INTEGER < abs(value) < 10**21:
        return float(value) if rfc8785.dumps(float(value)) == str(value).encode() else value
    return value
