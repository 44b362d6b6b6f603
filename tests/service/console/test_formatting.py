from datetime import UTC, datetime, timedelta

import pytest

from ledger.states import ClosingReason, Phase
from service.console.formatting import DOING, WHY, lasting, left, moment, span, tone

NOW = datetime(2026, 3, 14, 9, 30, tzinfo=UTC)


@pytest.mark.parametrize(
    ("time", "words"),
    [
        (timedelta(days=30, hours=5), "30 days"),
        (timedelta(days=1), "1 day"),
        (timedelta(hours=23, minutes=59), "23 hours"),
        (timedelta(minutes=1), "1 minute"),
        (timedelta(seconds=59), "59 seconds"),
        (timedelta(), "0 seconds"),
    ],
)
def test_a_length_of_time_is_said_in_its_largest_unit(time: timedelta, words: str) -> None:
    assert span(time) == words


def test_a_deadline_is_left_or_overdue() -> None:
    assert left(NOW + timedelta(days=3), NOW) == "3 days left"
    assert left(NOW - timedelta(hours=2), NOW) == "2 hours overdue"
    assert left(None, NOW) == moment(None) == "–"


def test_states_have_colours_and_what_goes_on_has_one() -> None:
    assert [tone(state) for state in ("completed", "failed", "inconclusive", "cancelled", "running", None)] == [
        "good",
        "bad",
        "unsure",
        "quiet",
        "open",
        "open",
    ]


def test_every_phase_of_an_open_job_and_every_reason_of_a_cut_off_has_its_words() -> None:
    assert set(DOING) == set(Phase) - {Phase.DONE}
    assert set(WHY) == set(ClosingReason)
    assert lasting(5400.0) == "1 hour"
