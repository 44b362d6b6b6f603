from datetime import UTC, datetime, timedelta, timezone

import pytest

from report.evidence import Delay, Estimate
from report.formatting import (
    SPACE,
    any_of,
    delay,
    duration,
    interval,
    moment,
    percent,
    plural,
    ratio,
    share,
)
from unlearning.specs import SPECS
from verifier.method_names import METHOD_NAMES, short_method


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0.0 s"), (0.05, "0.05 s"), (4.37, "4.4 s"), (61.4, "61 s"), (725, "12 min 5 s"), (12_000, "3 h 20 min")],
)
def test_a_duration_is_said_in_the_unit_that_fits(seconds: float, text: str) -> None:
    assert duration(seconds).replace(SPACE, " ") == text


def test_a_small_ratio_keeps_two_digits() -> None:
    assert [ratio(value) for value in (0, 0.5, 0.0034, 1.234)] == ["0.00", "0.50", "0.0034", "1.23"]


def test_a_censored_delay_is_a_lower_bound() -> None:
    assert delay(Delay(steps=60, censored=True)) == "over 60 steps"
    assert delay(Delay(steps=1, censored=False)) == "1 step"


def test_one_is_singular() -> None:
    assert (plural(1, "sample"), plural(1334, "sample")) == ("1 sample", "1,334 samples")


def test_times_are_printed_in_utc() -> None:
    local = datetime(2026, 3, 14, 11, 31, 7, tzinfo=timezone(timedelta(hours=2)))
    assert moment(local) == moment(local.astimezone(UTC)) == "14 March 2026, 09:31:07 UTC"


def test_only_the_second_end_of_an_interval_has_the_unit() -> None:
    estimate = Estimate(value=0.5, low=0.4, high=0.625)
    assert interval(estimate, ratio) == "0.40 to 0.62"
    assert interval(estimate, share) == f"40.0 to 62.5{SPACE}%"
    assert interval(Estimate(value=97.0, low=96.0, high=98.0), percent) == f"96.0 to 98.0{SPACE}%"


@pytest.mark.parametrize(
    ("kind", "name"), [("ltu", "LTU"), ("sim_npo", "SimNPO"), ("gradient_ascent", "gradient ascent")]
)
def test_a_method_is_named_as_its_paper_writes_it(kind: str, name: str) -> None:
    assert short_method(kind) == name


def test_only_methods_that_there_are_have_names() -> None:
    assert METHOD_NAMES.keys() <= SPECS.keys()


def test_what_none_is_meant_of_is_named_as_one_thing_or_as_several() -> None:
    assert any_of(1, "sample") == "the sample"
    assert any_of(1334, "sample") == "any of the 1,334 samples"
    assert any_of(2, "person", "people") == "any of the 2 people"
