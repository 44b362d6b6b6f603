"""Errors of the verifier: why something is not proven.

NotProven
├── Malformed        a file is truncated, of another format, or lacks a field
├── BadSignature     none of the given keys signed exactly these bytes
├── Revoked          the signature is good, but its key is revoked
└── Mismatch         the signature is good, but it is about something other than what was given
"""


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
