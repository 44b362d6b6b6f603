"""Why something is not proven.

NotProven
├── Malformed        what was given is not what it should be: truncated, another format, a missing field
├── BadSignature     no signature is of a key that was given, over exactly these bytes
├── Revoked          the signature is good, but its key is revoked
└── Mismatch         the signature is good, but it speaks of something else than what was given
"""


class NotProven(Exception):
    """Base of every reason; the message is for the person who checks."""


class Malformed(NotProven):
    """It cannot be read as what it should be."""


class BadSignature(NotProven):
    """No given key has signed these bytes."""


class Revoked(NotProven):
    """The key that signed is revoked: nothing signed with it counts."""


class Mismatch(NotProven):
    """What was signed is about other weights, another report, another sample or another tree."""
