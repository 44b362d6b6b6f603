import numpy as np
import pytest
from scipy.spatial.distance import jensenshannon

from unlearning.audit.measures import ClassAccuracy, accuracy, agreement, jensen_shannon, per_class, total_variation
from unlearning.audit.signals import signals


def distributions(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).dirichlet(np.ones(5), 40)


def test_jensen_shannon_is_the_square_of_scipy_s_distance() -> None:
    p, q = distributions(0), distributions(1)
    assert jensen_shannon(p, q) == pytest.approx(np.mean(jensenshannon(p, q, axis=1) ** 2))


def test_jensen_shannon_bears_probabilities_of_zero() -> None:
    assert jensen_shannon(np.array([[1.0, 0.0]]), np.array([[0.0, 1.0]])) == pytest.approx(np.log(2))
    assert jensen_shannon(np.array([[1.0, 0.0, 0.0]]), np.array([[1.0, 0.0, 0.0]])) == 0
    assert np.isfinite(jensen_shannon(np.array([[1.0, 5e-324]]), np.array([[1.0, 0.0]])))


def test_total_variation_is_the_most_that_any_event_differs() -> None:
    p, q = np.array([[0.5, 0.3, 0.2]]), np.array([[0.2, 0.3, 0.5]])
    assert total_variation(p, q) == pytest.approx(0.3)


def test_accuracy_and_agreement_count_predictions() -> None:
    targets = np.array([0, 0, 1, 1])
    first = signals(np.array([[2.0, 0], [0, 2], [0, 2], [0, 2]]), targets)
    second = signals(np.array([[2.0, 0], [2, 0], [0, 2], [2, 0]]), targets)
    assert accuracy(first).value == 0.75
    assert agreement(first, second) == 0.5
    assert per_class(first, second) == (
        ClassAccuracy(label="0", original=50.0, unlearned=100.0),
        ClassAccuracy(label="1", original=100.0, unlearned=50.0),
    )
