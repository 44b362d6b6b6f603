"""The one byte form of a JSON value, so that two machines that hold the same content compute the same digest."""

import hashlib
from collections.abc import Mapping
from typing import Any

import rfc8785

LARGEST_SAFE_INTEGER = 2**53 - 1


class NotCanonical(ValueError):
    """The value has no RFC 8785 form: NaN, infinity, an integer no double holds, a key or a type that JSON lacks."""


def canonical_json(value: object) -> bytes:
    """The value as RFC 8785 (JCS) bytes: UTF-8, no white space, keys by UTF-16 unit, numbers as ECMAScript prints.

    1 and 1.0 give the same bytes, so the digest outlives a round trip through JSONB or a browser. Raises NotCanonical.
    """
    try:
        return rfc8785.dumps(_plain(value))
    except (rfc8785.CanonicalizationError, RecursionError) as error:
        raise NotCanonical(f"the value can not be written as canonical JSON: {error}") from error


def canonical_sha256(value: object) -> str:
    """SHA-256, in hex, of the value's canonical bytes. Raises NotCanonical."""
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


def report_bytes(report: Mapping[str, object]) -> bytes:
    """The report's canonical JSON (RFC 8785): what is served, kept and signed. Raises NotCanonical."""
    return canonical_json(report)


def report_sha256(report: Mapping[str, object]) -> str:
    """SHA-256, in hex, of the canonical JSON. Raises NotCanonical."""
    return canonical_sha256(report)
