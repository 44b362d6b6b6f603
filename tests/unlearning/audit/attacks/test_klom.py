"""KLoM: 0 for equal distributions, and the closed form of two normals where there are many models."""

import numpy as np
import pytest

from unlearning.audit.attacks.klom import klom


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
