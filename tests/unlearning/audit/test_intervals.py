import numpy as np
import pytest
from scipy import stats

from unlearning.audit.intervals import Interval, mean_of, percentile, resamples, student, wilson


@pytest.mark.parametrize(("successes", "n"), [(0, 1), (1, 1), (0, 150), (7, 150), (150, 150), (5000, 9999)])
@pytest.mark.parametrize("confidence", [0.9, 0.95])
def test_wilson_agrees_with_scipy(successes: int, n: int, confidence: float) -> None:
    expected = stats.binomtest(successes, n).proportion_ci(confidence, method="wilson")
    found = wilson(successes, n, confidence=confidence)
    assert found.value == successes / n
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_student_agrees_with_scipy() -> None:
    assert student(0.9, 5) == pytest.approx(stats.t.ppf(0.95, 5))


def test_the_interval_of_a_mean_is_students_within_the_bounds_and_one_value_says_nothing() -> None:
    values = np.random.default_rng(0).uniform(0.3, 0.7, 12)
    found = mean_of(values, confidence=0.9)

    low, high = stats.t.interval(0.9, 11, loc=values.mean(), scale=stats.sem(values))
    assert (found.value, found.low, found.high) == pytest.approx((values.mean(), low, high))
    assert mean_of(np.array([2.0, 9.0]), confidence=0.9, bounds=(0.0, 10.0)).high == 10.0
    assert mean_of(np.array([0.4]), confidence=0.9) == Interval(0.4, 0.0, 1.0)


def test_resampling_draws_as_many_as_there_are() -> None:
    counts = resamples(30, replicates=500, rng=np.random.default_rng(0))
    assert counts.shape == (500, 30)
    assert (counts.sum(axis=1) == 30).all()
    # A count is binomial(30, 1/30): its variance is 29/30.
    assert counts.var() == pytest.approx(29 / 30, rel=0.05)


def test_the_bootstrap_covers_a_mean_as_often_as_it_says() -> None:
    rng, hits = np.random.default_rng(0), 0
    for _ in range(300):
        sample = rng.exponential(size=60)
        means = resamples(60, replicates=300, rng=rng) @ sample / 60
        hits += percentile(sample.mean(), means, confidence=0.9).within(-np.inf, np.inf) and (
            np.quantile(means, 0.05) <= 1 <= np.quantile(means, 0.95)
        )
    assert 0.83 < hits / 300 < 0.94


def test_an_interval_is_inside_outside_or_neither() -> None:
    assert Interval(0.5, 0.45, 0.55).within(0.4, 0.6)
    assert Interval(0.7, 0.65, 0.75).outside(0.4, 0.6)
    assert Interval(0.3, 0.25, 0.35).outside(0.4, 0.6)
    crossing = Interval(0.58, 0.52, 0.64)
    assert not crossing.within(0.4, 0.6)
    assert not crossing.outside(0.4, 0.6)


def test_a_complement_turns_the_ends_round() -> None:
    assert Interval(0.75, 0.5, 0.875).complement() == Interval(0.25, 0.125, 0.5)
