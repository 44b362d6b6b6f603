import numpy as np
import pytest
from scipy.spatial.distance import jensenshannon
from torch import nn

from unlearning.audit.comparison import compare, tug_of_war
from unlearning.audit.signals import Signals, signals


def seen(right: int, n: int = 10) -> Signals:
    targets = np.zeros(n, dtype=np.int64)
    return signals(np.where(np.arange(n)[:, None] < right, [[3.0, 0.0]], [[0.0, 3.0]]), targets)


def test_tug_of_war_multiplies_what_is_left() -> None:
    first = {"forget": seen(8), "remain": seen(10), "test": seen(9)}
    second = {"forget": seen(6), "remain": seen(10), "test": seen(8)}
    assert tug_of_war(first, second) == pytest.approx(0.8 * 1.0 * 0.9)


def test_a_model_has_no_gap_to_itself() -> None:
    model, sets = nn.Linear(2, 2), {"forget": seen(8), "remain": seen(10), "test": seen(9)}
    table = {"ua": 20.0, "ra": 100.0, "ta": 90.0, "mi": 40.0}
    found = compare(sets, sets, measures=table, reference_measures=table, models=(model, model))
    assert (found.average_gap, found.tow, found.activation_distance, found.jensen_shannon) == (0, 1, 0, 0)
    assert set(found.layers.values()) == {0.0}


def test_the_average_gap_is_over_the_four_measures() -> None:
    sets = {"forget": seen(8), "remain": seen(10), "test": seen(9)}
    other = {"forget": seen(6), "remain": seen(10), "test": seen(9)}
    found = compare(
        sets,
        other,
        measures={"ua": 20.0, "ra": 100.0, "ta": 90.0, "mi": 40.0},
        reference_measures={"ua": 40.0, "ra": 99.0, "ta": 90.0, "mi": 43.0},
        models=(nn.Linear(2, 2), nn.Linear(2, 2)),
    )
    assert found.average_gap == pytest.approx((20 + 1 + 0 + 3) / 4)
    # Two of ten samples have their distribution turned round.
    p = 1 / (1 + np.exp(-3))
    assert found.activation_distance == pytest.approx(0.2 * np.sqrt(2) * (2 * p - 1))


def test_the_divergence_is_scipys_and_bears_certainty() -> None:
    rng = np.random.default_rng(0)
    targets = np.zeros(20, dtype=np.int64)
    # Logits of 800 underflow to a probability of 0.
    first, second = (signals(rng.choice([0.0, 3.0, 800.0], (20, 5)), targets) for _ in range(2))
    sets = {"forget": first, "remain": first, "test": first}
    other = {"forget": second, "remain": second, "test": second}
    table = {"ua": 0.0, "ra": 0.0, "ta": 0.0, "mi": 0.0}
    model = nn.Linear(2, 2)
    found = compare(sets, other, measures=table, reference_measures=table, models=(model, model))

    wanted = np.mean(jensenshannon(first.probabilities, second.probabilities, axis=1) ** 2)
    assert found.jensen_shannon == pytest.approx(wanted)
    distances = np.linalg.norm(first.probabilities - second.probabilities, axis=1)
    assert found.activation_distance == pytest.approx(distances.mean())


def test_each_layer_s_distance_is_that_of_its_weights() -> None:
    first, second = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2)), nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    sets = {"forget": seen(8), "remain": seen(10), "test": seen(9)}
    table = {"ua": 20.0, "ra": 100.0, "ta": 90.0, "mi": 40.0}
    found = compare(sets, sets, measures=table, reference_measures=table, models=(first, second))
    ours, theirs = first.state_dict(), second.state_dict()

    assert set(found.layers) == set(ours)
    for name, distance in found.layers.items():
        assert distance == pytest.approx(float((ours[name] - theirs[name]).norm()), rel=1e-5)
