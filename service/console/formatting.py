"""How the console says times, states and shares."""

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
"""The colour of a state or a verdict; anything else is under way."""


DOING = {
    "waiting": "waits in the queue",
    "awaiting_approval": "waits for approval",
    "load": "loading",
    "unlearn": "unlearning",
    "audit_membership": "auditing: membership attacks",
    "audit_relearn": "auditing: relearning",
    "report": "writing the report",
    "publish": "publishing",
}
"""What a job does in each phase."""

WHY = {
    "window": "its batching window ends",
    "deadline": "any later would miss the earliest deadline",
    "expedite": "a request is to go first",
    "method": "a later request asked for another method",
}
"""Why a job takes no more requests from its cut-off on."""


def doing(phase: str) -> str:
    """What a job does now."""
    return DOING.get(phase) or plain(phase)


def why(reason: str) -> str:
    """Why a job's cut-off is when it is."""
    return WHY.get(reason) or plain(reason)


def tone(state: str | None) -> str:
    """The colour that a state is shown in."""
    return TONES.get(state or "", "open")


def moment(at: datetime | None) -> str:
    """A time to the minute, in UTC."""
    return "–" if at is None else f"{at.astimezone(UTC):%Y-%m-%d %H:%M} UTC"


def ended(state: str) -> bool:
    """Whether nothing more happens by itself."""
    return state in TERMINAL


def left(due_at: datetime | None, now: datetime) -> str:
    """How long it is until a deadline, or since."""
    if due_at is None:
        return "–"
    rest = due_at - now
    words = span(abs(rest))
    return f"{words} left" if rest >= timedelta() else f"{words} overdue"


def span(time: timedelta) -> str:
    """A length of time in its one largest unit."""
    seconds = round(time.total_seconds())
    for unit, size in (("day", 86400), ("hour", 3600), ("minute", 60), ("second", 1)):
        if seconds >= size:
            count = seconds // size
            return f"{count} {unit}{'' if count == 1 else 's'}"
    return "0 seconds"


def lasting(seconds: float) -> str:
    """A number of seconds as a length of time."""
    return span(timedelta(seconds=seconds))


def percent(share: float) -> str:
    """A share from 0 to 1."""
    return f"{100 * share:.0f}\N{NO-BREAK SPACE}%"


def plain(name: str) -> str:
    """`audit_membership` → audit membership."""
    return name.replace("_", " ")
