"""Formatting of the console: times, durations, states and shares as text."""

from datetime import UTC, datetime, timedelta

from ledger.states import TERMINAL

TONES = {
    "completed": "good",
    "verified": "good",
    "failed": "bad",
    "inconclusive": "unsure",
    "cancelled": "quiet",
    "rejected": "quiet",
}
"""The colour of a state or a verdict; every other state is open."""

PHASES = {
    "waiting": "waits in the queue",
    "load": "loading",
    "unlearn": "unlearning",
    "audit_membership": "auditing: membership attacks",
    "audit_relearn": "auditing: relearning",
    "report": "writing the report",
    "publish": "publishing",
}
"""What a job does in each phase."""

CLOSINGS = {
    "window": "its batching window ends",
    "deadline": "a later start would miss the earliest deadline",
    "expedite": "a request is expedited",
    "method": "a later request asked for another method",
}
"""Why a job closes, and takes no more requests, when it does."""


def is_ended(state: str) -> bool:
    """Return whether the state is final."""
    return state in TERMINAL


def tone(state: str | None) -> str:
    """Return the colour of a state or a verdict."""
    return TONES.get(state or "", "open")


def phase(name: str) -> str:
    """Say what a job does in a phase."""
    return PHASES.get(name) or plain(name)


def closing(reason: str) -> str:
    """Say why a job closes when it does."""
    return CLOSINGS.get(reason) or plain(reason)


def plain(name: str) -> str:
    """Write a code as words: `audit_membership` as "audit membership"."""
    return name.replace("_", " ")


def moment(at: datetime | None) -> str:
    """Write a time to the minute, in UTC."""
    return "–" if at is None else f"{at.astimezone(UTC):%Y-%m-%d %H:%M} UTC"


def time_left(due_at: datetime | None, now: datetime) -> str:
    """Say how long it is until a deadline, or since."""
    if due_at is None:
        return "–"
    left = due_at - now
    text = duration(abs(left).total_seconds())
    return f"{text} left" if left >= timedelta() else f"{text} overdue"


def duration(seconds: float) -> str:
    """Write a duration in its one largest unit."""
    whole = round(seconds)
    for unit, size in (("day", 86400), ("hour", 3600), ("minute", 60), ("second", 1)):
        if whole >= size:
            count = whole // size
            return f"{count} {unit}{'' if count == 1 else 's'}"
    return "0 seconds"


def percent(share: float) -> str:
    """Write a share from 0 to 1 as a percentage."""
    return f"{100 * share:.0f}\N{NO-BREAK SPACE}%"
