from datetime import UTC, datetime, timedelta

import pytest

from ledger.states import STAGES, ClosingReason, Phase
from service.console.rendering import CLOSINGS, PHASES, by_stage, duration, moment, time_left, tone

NOW = datetime(2026, 3, 14, 9, 30, tzinfo=UTC)


@pytest.mark.parametrize(
    ("time", "text"),
    [
        (timedelta(days=30, hours=5), "30 days"),
        (timedelta(days=1), "1 day"),
        (timedelta(hours=23, minutes=59), "23 hours"),
        (timedelta(minutes=1), "1 minute"),
        (timedelta(seconds=59), "59 seconds"),
        (timedelta(), "0 seconds"),
    ],
)
def test_a_duration_is_written_in_its_largest_unit(time: timedelta, text: str) -> None:
    assert duration(time.total_seconds()) == text


def test_a_deadline_is_left_or_overdue() -> None:
    assert time_left(NOW + timedelta(days=3), NOW) == "3 days left"
    assert time_left(NOW - timedelta(hours=2), NOW) == "2 hours overdue"
    assert time_left(None, NOW) == moment(None) == "–"


@pytest.mark.parametrize(
    ("state", "colour"),
    [
        ("completed", "good"),
        ("failed", "bad"),
        ("inconclusive", "unsure"),
        ("cancelled", "quiet"),
        ("running", "open"),
        (None, "open"),
    ],
)
def test_every_state_has_a_colour(state: str | None, colour: str) -> None:
    assert tone(state) == colour


def test_every_phase_of_an_open_job_and_every_reason_to_close_has_its_text() -> None:
    assert set(PHASES) == set(Phase) - {Phase.DONE}
    assert set(CLOSINGS) == set(ClosingReason)


def test_the_seconds_of_an_attempt_are_in_the_order_of_its_stages() -> None:
    timings = dict.fromkeys([*sorted(STAGES, key=len), "data_wait"], 1.0)
    assert [stage for stage, _ in by_stage(timings)] == [*STAGES, "data_wait"]
