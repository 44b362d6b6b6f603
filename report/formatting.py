"""Numbers and times as the report prints them; a space before a unit never breaks the line."""

from datetime import UTC, datetime

from report.evidence import Delay, Estimate


def count(value: int) -> str:
    """1334 → 1,334."""
    return f"{value:,}"


def plural(value: int, noun: str) -> str:
    """(1, "sample") → 1 sample; (1334, "sample") → 1,334 samples."""
    return f"{value:,} {noun}" if value == 1 else f"{value:,} {noun}s"


def ratio(value: float) -> str:
    """A number of order one with two decimals, a small one with two digits that mean something."""
    return f"{value:.2f}" if value == 0 or abs(value) >= 0.01 else f"{value:.2g}"


def percent(value: float) -> str:
    """A value from 0 to 100 with one decimal."""
    return f"{value:.1f}\N{NO-BREAK SPACE}%"


def share(value: float) -> str:
    """A ratio from 0 to 1 as a percentage."""
    return percent(100 * value)


def ratio_interval(estimate: Estimate) -> str:
    """The ends of an interval of ratios."""
    return f"{ratio(estimate.low)} to {ratio(estimate.high)}"


def percent_interval(estimate: Estimate) -> str:
    """The ends of an interval of percentages, in which only the last carries the sign."""
    return f"{estimate.low:.1f} to {estimate.high:.1f}\N{NO-BREAK SPACE}%"


def duration(seconds: float) -> str:
    """Seconds as a person says them: 0.84 s, 61 s, 12 min 5 s, 3 h 20 min."""
    if seconds < 10:
        return f"{seconds:.2g}\N{NO-BREAK SPACE}s" if 0 < seconds < 1 else f"{seconds:.1f}\N{NO-BREAK SPACE}s"
    whole = round(seconds)
    if whole < 120:
        return f"{whole}\N{NO-BREAK SPACE}s"
    if whole < 7200:
        return f"{whole // 60}\N{NO-BREAK SPACE}min {whole % 60}\N{NO-BREAK SPACE}s"
    return f"{whole // 3600}\N{NO-BREAK SPACE}h {whole % 3600 // 60}\N{NO-BREAK SPACE}min"


def delay(value: Delay) -> str:
    """Steps of relearning; a censored delay is a lower bound."""
    steps = f"{value.steps:,.0f}"
    return f"over {steps} steps" if value.censored else "1 step" if value.steps == 1 else f"{steps} steps"


def day(at: datetime) -> str:
    """The day of a time, in UTC."""
    utc = at.astimezone(UTC)
    return f"{utc.day}\N{NO-BREAK SPACE}{utc:%B}\N{NO-BREAK SPACE}{utc:%Y}"


def moment(at: datetime) -> str:
    """A time to the second, in UTC."""
    utc = at.astimezone(UTC)
    return f"{utc.day} {utc:%B %Y, %H:%M:%S} UTC"
