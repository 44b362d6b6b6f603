"""Errors of the verifier: why something is not proven.

NotProven
├── Malformed        a file is truncated, of another format, or lacks a field
├── BadSignature     none of the given keys signed exactly these bytes
├── Revoked          the signature is good, but its key is revoked
└── Mismatch         the signature is good, but it is about something other than what was given
"""

from collections.abc import Mapping


class NotProven(Exception):
    """Base of all reasons; the message is for the person who checks."""


class Malformed(NotProven):
    """A file cannot be read as what it should be."""


class BadSignature(NotProven):
    """No given key signed these bytes."""


class Revoked(NotProven):
    """The key that signed is revoked: nothing signed with it counts."""


class Mismatch(NotProven):
    """The signed content is about other weights, another report, another sample, another person or another tree."""


PROBLEMS = "https://expunge.dev/problems/"
"""What the type of an error begins with that the service answers in place of a proof."""


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
