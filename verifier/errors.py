"""Why something is not proven, and the reading of files that may hold anything."""

import json
from collections.abc import Mapping
from typing import Any


class NotProven(Exception):
    """Base of all reasons; the message is for the person who checks."""


class Malformed(NotProven):
    """A file is truncated, of another format, or lacks a field."""


class BadSignature(NotProven):
    """None of the given keys signed exactly these bytes."""


class Revoked(NotProven):
    """The signature is good, but its key is revoked: nothing signed with it counts."""


class Mismatch(NotProven):
    """The signature is good, but it is about other weights, another report, another sample, another person or another tree."""


UNREADABLE = (ValueError, KeyError, TypeError, RecursionError)
"""What a file raises that is not what it should be, while its JSON is read and its fields are taken."""

PROBLEMS = "https://expunge.dev/problems/"
"""What the type of an error begins with that the service answers in place of a proof."""


def read_json(text: bytes | str) -> Any:
    """Parse JSON that holds only what can be computed with. Raises ValueError, also for other JSON, and RecursionError.

    Python reads NaN, 1e999 and half of a surrogate pair too. The first two are no whole number, and the last has no UTF-8 form.
    """
    found = json.loads(text)
    json.dumps(found, ensure_ascii=False, allow_nan=False).encode()
    return found


def unreadable(what: str, error: Exception) -> Malformed:
    """Say why a file cannot be read: what it lacks, or what kind of error came."""
    why = f"it lacks {error}" if isinstance(error, KeyError) else type(error).__name__
    return Malformed(f"{what} cannot be read: {why}.")


def require_type(what: str, content: Mapping[str, object], wanted: str) -> None:
    """Check the type that a proof names. Raises Malformed, and KeyError if it names none."""
    found = content["type"]
    if isinstance(found, str) and found.startswith(PROBLEMS):
        raise Malformed(f"{what} is none, but an error of the service: {content.get('detail', found)}")
    if found != wanted:
        raise Malformed(f"{what} is of the type {found!r}, not {wanted!r}.")
