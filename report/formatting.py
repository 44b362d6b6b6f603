"""Numbers, intervals and times as the report prints them. A space before a unit never breaks the line."""

from collections.abc import Callable
from datetime import UTC, datetime

from report.evidence import Delay, Estimate

SPACE = "\N{NO-BREAK SPACE}"


def count(value: int) -> str:
    """Group the digits: 1334 → 1,334."""
    return f"{value:,}"


def plural(value: int, noun: str, nouns: str | None = None) -> str:
    """Count a noun: (1, "sample") → 1 sample; (1334, "sample") → 1,334 samples. nouns: the plural, if no s forms it."""
    return f"{value:,} {noun}" if value == 1 else f"{value:,} {nouns or noun + 's'}"


def any_of(count: int, noun: str, nouns: str | None = None) -> str:
    """Name some of which none is meant: (1, "sample") → the sample; (3, "sample") → any of the 3 samples. nouns: the plural."""
    return f"the {noun}" if count == 1 else f"any of the {count:,} {nouns or noun + 's'}"


def ratio(value: float) -> str:
    """Print a number of order one with two decimals, a small one with two significant digits."""
    return f"{value:.2f}" if value == 0 or abs(value) >= 0.01 else f"{value:.2g}"


def percent(value: float) -> str:
    """Print a value from 0 to 100 with one decimal."""
    return f"{value:.1f}{SPACE}%"


def amount(unit: str) -> Callable[[float], str]:
    """Return what prints a value of this unit with one decimal: amount("%")(4.04) → 4.0 %."""
    return lambda value: f"{value:.1f}{SPACE}{unit}"


SHORT_UNIT = 4
"""Characters of a unit that stands beside each number, such as % and nats."""


def in_a_cell(unit: str) -> Callable[[float], str]:
    """Return what prints a value where there is little room: with a short unit, and without a long one, which is named beside."""
    return amount(unit) if len(unit) <= SHORT_UNIT else lambda value: f"{value:.1f}"


def sentence(text: str) -> str:
    """Begin with a capital letter, and leave the rest as it is."""
    return text[:1].upper() + text[1:]


def share(value: float) -> str:
    """Print a ratio from 0 to 1 as a percentage."""
    return percent(100 * value)


def interval(of: Estimate, show: Callable[[float], str]) -> str:
    """Print the ends of an interval in the given form; only the second has the unit: 0.41 to 0.49, 3.1 to 4.0 %."""
    return f"{show(of.low).partition(SPACE)[0]} to {show(of.high)}"


def duration(seconds: float) -> str:
    """Print seconds in units that suit them: 0.84 s, 61 s, 12 min 5 s, 3 h 20 min."""
    if seconds < 10:
        return f"{seconds:.2g}{SPACE}s" if 0 < seconds < 1 else f"{seconds:.1f}{SPACE}s"
    whole = round(seconds)
    if whole < 120:
        return f"{whole}{SPACE}s"
    if whole < 7200:
        return f"{whole // 60}{SPACE}min {whole % 60}{SPACE}s"
    return f"{whole // 3600}{SPACE}h {whole % 3600 // 60}{SPACE}min"


def delay(value: Delay) -> str:
    """Print steps of relearning; a censored delay is a lower bound."""
    steps = f"{value.steps:,.0f}"
    return f"over {steps} steps" if value.censored else "1 step" if value.steps == 1 else f"{steps} steps"


def day(at: datetime) -> str:
    """Print the day of a time, in UTC."""
    utc = at.astimezone(UTC)
    return f"{utc.day}{SPACE}{utc:%B}{SPACE}{utc:%Y}"


def moment(at: datetime) -> str:
    """Print a time to the second, in UTC."""
    utc = at.astimezone(UTC)
    return f"{utc.day} {utc:%B %Y, %H:%M:%S} UTC"
