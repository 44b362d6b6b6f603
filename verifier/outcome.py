"""What a check came to, in words: what is proven, what is only stated, what was not looked at, and what no such check can show."""

from collections.abc import Sequence
from dataclasses import dataclass

NOT_SHOWN = (
    "That the audit was run, and run honestly: a statement is worth as much as whoever holds its key.",
    "That the samples' influence is gone: only how the attacks that were run came out against thresholds fixed before.",
    "That no other, stronger attack could find more.",
    "That the weights named are those in service, or that no copy, backup, earlier version or model made from them is left.",
    "That the time stated is right: it is the signer's own.",
    "That everybody is shown the same log: only those who compare their checkpoints would notice.",
    "That the key is whose you think it is: compare its id with one that you were given on another way.",
)
"""True of every statement, good or bad, so always told."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What a check came to. `refused` says why nothing is proven, where that is so."""

    proven: Sequence[str] = ()
    stated: Sequence[str] = ()
    unchecked: Sequence[str] = ()
    limits: Sequence[str] = ()
    refused: str | None = None


def told(outcome: Outcome) -> str:
    """The outcome as text to print."""
    # Not "verified": that is a verdict of the audit, and a good signature may stand under any.
    head = "NOT PROVEN" if outcome.refused else "SIGNATURE GOOD"
    parts = [
        (head, [outcome.refused] if outcome.refused else []),
        ("Proven", outcome.proven),
        ("Stated by the signer", outcome.stated),
        ("Not checked, because it was not given", outcome.unchecked),
        ("Not shown by this or any such check", NOT_SHOWN),
        ("Not shown, as the statement itself says", outcome.limits),
    ]
    return "\n\n".join(_part(title, lines) for title, lines in parts if lines or title == head)


def _part(title: str, lines: Sequence[str]) -> str:
    return "\n".join([title, *(f"  - {_visible(line)}" for line in lines)])


def _visible(line: str) -> str:
    """A line that cannot move the cursor or pass for two: what is printed comes from a file of unknown origin."""
    return "".join(character if character.isprintable() else "�" for character in line)
