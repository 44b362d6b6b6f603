"""KLoM: 0 for equal distributions, and the closed form of two normals where there are many models."""

import math

import numpy as np
import pytest

from unlearning.audit.attacks.klom import DELTA, forgetting_score, klom, mean_mark, sample_epsilons


def test_the_same_margins_have_no_divergence() -> None:
    margins = np.random.default_rng(0).normal(size=(30, 8))

    np.testing.assert_allclose(klom(margins, margins[::-1]), 0, atol=1e-12)


def test_constant_margins_have_none_either() -> None:
    np.testing.assert_array_equal(klom(np.ones((5, 2)), np.ones((7, 2))), 0)


@pytest.mark.parametrize("shift", [0.25, 0.5, 1.0])
def test_two_normals_are_half_the_squared_shift_apart(shift: float) -> None:
    rng = np.random.default_rng(0)
    found = klom(rng.normal(shift, 1, (40_000, 4)), rng.normal(0, 1, (40_000, 4)))

    # Twenty bins lose some of it, and empty ones in the tails add some.
    assert np.all(np.abs(found / (shift**2 / 2) - 1) < 0.25)


def test_it_is_the_divergence_of_the_two_histograms() -> None:
    unlearned, retrained = np.array([[0.0], [1.0], [1.0], [20.0]]), np.array([[0.0], [0.0], [1.0], [20.0]])
    q, p = np.full(20, 1e-5), np.full(20, 1e-5)
    q[[0, 1, 19]] += [0.25, 0.5, 0.25]
    p[[0, 1, 19]] += [0.5, 0.25, 0.25]
    q, p = q / q.sum(), p / p.sum()

    np.testing.assert_allclose(klom(unlearned, retrained), [(p * np.log(p / q)).sum()])


def test_margins_beyond_a_hundred_count_as_a_hundred() -> None:
    np.testing.assert_array_equal(klom(np.full((3, 1), 1e4), np.full((3, 1), 200.0)), 0)


def by_hand(unlearned: list[float], retrained: list[float]) -> float:
    """Every threshold between two values, both directions, by counting."""
    best = 0.0
    for level in sorted({*unlearned, *retrained}):
        for above in (True, False):
            called = lambda value, level=level, above=above: (value > level) == above  # noqa: E731
            fnr = sum(not called(value) for value in unlearned) / len(unlearned)
            fpr = sum(called(value) for value in retrained) / len(retrained)
            if fnr == 0 and fpr == 0:
                return math.inf
            if fnr > 0 and fpr > 0:
                for one, other in ((fpr, fnr), (fnr, fpr)):
                    if 1 - DELTA - one > 0:
                        best = max(best, math.log(1 - DELTA - one) - math.log(other))
    return best


def test_the_epsilon_is_that_of_the_best_threshold() -> None:
    rng = np.random.default_rng(0)
    unlearned, retrained = rng.normal(0.8, 1, (12, 20)).round(1), rng.normal(0, 1, (9, 20)).round(1)
    wanted = [by_hand(list(one), list(other)) for one, other in zip(unlearned.T, retrained.T, strict=True)]

    np.testing.assert_allclose(sample_epsilons(unlearned, retrained), wanted)


def test_it_is_the_same_from_both_sides() -> None:
    rng = np.random.default_rng(1)
    unlearned, retrained = rng.normal(1, 1, (16, 10)), rng.normal(0, 1, (16, 10))

    np.testing.assert_allclose(sample_epsilons(unlearned, retrained), sample_epsilons(-unlearned, -retrained))


def test_separated_models_have_an_infinite_epsilon() -> None:
    assert np.isinf(sample_epsilons(np.arange(4.0)[:, None], np.arange(4.0, 8.0)[:, None])).all()


@pytest.mark.parametrize(
    ("epsilon", "wanted"), [(0.0, 1.0), (0.49, 1.0), (0.5, 0.5), (1.2, 0.25), (5.9, 2 / 2**12), (math.inf, 2 / 2**13)]
)
def test_a_mark_halves_with_each_half_of_an_epsilon(epsilon: float, wanted: float) -> None:
    assert mean_mark(np.array([epsilon])) == pytest.approx(wanted)


def test_unlearning_that_equals_retraining_scores_as_the_null_does() -> None:
    rng = np.random.default_rng(2)
    found = forgetting_score(rng.normal(size=(40, 300)), rng.normal(size=(40, 300)), utility=1.0)

    assert found.models == 20
    # The mean of 300 marks between 0 and 1: four standard errors of two such means.
    assert abs(found.quality - found.null) < 4 * math.sqrt(2 * 0.25 / 300)
    assert found.score == found.quality


def test_unlearning_that_does_nothing_scores_far_below_the_null() -> None:
    rng = np.random.default_rng(3)
    found = forgetting_score(rng.normal(4, 1, (40, 300)), rng.normal(0, 1, (40, 300)), utility=0.5)

    assert found.quality < found.null / 4
    assert found.score == pytest.approx(found.quality / 2)
