import numpy as np
import pytest
import torch

from unlearning.audit.controls import (
    MANY,
    Difficulty,
    QuickControls,
    class_sizes,
    draw_as_hard,
    draw_by_class,
    draw_distinct,
    overlap,
)
from unlearning.data.samples import SampleSet


def labelled(targets: np.ndarray) -> SampleSet:
    n = len(targets)
    return SampleSet(ids=tuple(map(str, range(n))), inputs=torch.arange(n), targets=torch.tensor(targets))


def test_a_control_has_the_forget_set_s_size_and_class_mix() -> None:
    rng = np.random.default_rng(0)
    forget, held_out = rng.choice(4, 120, p=[0.4, 0.3, 0.2, 0.1]), rng.choice(4, 800)
    sizes = class_sizes(forget, held_out, max_samples=256)
    (chosen,) = draw_by_class(labelled(held_out), sizes, rng)
    assert sorted(held_out[chosen].tolist()) == sorted(forget.tolist())
    assert len(set(chosen.tolist())) == 120


def test_sets_have_as_few_samples_in_common_as_they_can() -> None:
    rng = np.random.default_rng(0)
    held_out = np.repeat([0, 1], [60, 25])
    sets = draw_by_class(labelled(held_out), {0: 10, 1: 10}, rng, sets=6)
    assert [sorted(held_out[places].tolist()) for places in sets] == [[0] * 10 + [1] * 10] * 6
    assert all(len(set(places.tolist())) == 20 for places in sets)
    drawn, counts = np.unique(np.concatenate(sets), return_counts=True)
    assert len(drawn) == 85
    assert counts[drawn < 60].tolist() == [1] * 60
    assert counts[drawn >= 60].max() <= 3
    assert 0 < overlap(sets) < 0.3


def test_the_overlap_is_the_mean_share_of_a_set_that_another_has_too() -> None:
    sets = [np.array([0, 1]), np.array([1, 2]), np.array([3, 4])]
    assert overlap(sets) == pytest.approx(0.5 / 3)
    assert overlap(sets[:1]) == 0


def test_a_control_takes_at_most_half_of_a_class_and_no_more_than_asked() -> None:
    forget, held_out = np.repeat([0, 1], [300, 300]), np.repeat([0, 1, 2], [50, 500, 100])
    assert class_sizes(forget, held_out, max_samples=10_000) == {0: 25, 1: 250}
    assert class_sizes(forget, held_out, max_samples=100) == {0: 25, 1: 50}


def test_a_class_that_nobody_held_out_is_left_out() -> None:
    assert class_sizes(np.array([0, 7, 7]), np.zeros(40, dtype=np.int64), max_samples=256) == {0: 1}


def test_rounding_gives_no_more_samples_than_asked() -> None:
    forget = np.repeat(np.arange(10), [15, 16, 15, 15, 15, 15, 15, 14, 15, 15])
    sizes = class_sizes(forget, np.repeat(np.arange(10), 50), max_samples=16)
    assert sum(sizes.values()) == 16
    assert min(sizes.values()) == 1


def test_controls_of_one_sample_are_all_different_and_as_hard() -> None:
    rng = np.random.default_rng(0)
    difficulty = Difficulty(forget=np.array([2.0]), held_out=np.linspace(0, 4, 401))
    found = draw_distinct(lambda: draw_as_hard(difficulty, rng, count=1, nearest=MANY), MANY)
    assert len(found) == len({int(places[0]) for places in found}) == MANY
    assert max(abs(difficulty.held_out[places[0]] - 2.0) for places in found) < 0.21


def test_a_control_has_a_sample_as_hard_as_each_forgotten_one_and_none_twice() -> None:
    rng = np.random.default_rng(0)
    held_out = rng.permutation(np.arange(60.0))
    difficulty = Difficulty(forget=np.array([5.2, 5.2, 5.2, 59.0, -3.0]), held_out=held_out)
    for _ in range(50):
        places = draw_as_hard(difficulty, rng, count=5, nearest=3)
        found = sorted(held_out[places])
        assert len(set(places.tolist())) == 5
        assert found[0] <= 2
        assert found[-1] >= 57
        assert all(abs(value - 5.2) <= 3.3 for value in found[1:4])


def test_where_there_are_few_sets_none_is_counted_twice() -> None:
    rng = np.random.default_rng(0)
    assert len(draw_distinct(lambda: rng.permutation(5)[:1], MANY)) == 5


@pytest.mark.parametrize("law", ["continuous", "ties", "few controls"])
def test_a_set_never_seen_is_unusually_fast_as_rarely_as_the_p_value_says(law: str) -> None:
    """Whatever the law of the delays, and though no more sets are drawn once enough are quick."""
    rng, controls, runs = np.random.default_rng(0), 12 if law == "few controls" else MANY, 4000
    found = []
    for _ in range(runs):
        delays = rng.geometric(0.2, 1 + controls) - 1 if law == "ties" else rng.integers(10**6, size=1 + controls)
        quick = QuickControls(float(delays[0]), least=1.0)
        for delay in delays[1:]:
            if not quick.settled:
                quick.add(int(delay))
        found.append(quick.p_value)
    for level in (0.025, 0.05, 0.1, 0.5):
        assert np.mean(np.array(found) <= level) <= level + 3 * (level / runs) ** 0.5


def test_no_more_controls_than_needed_are_drawn() -> None:
    quick = QuickControls(0, least=1 / 3)
    assert quick.longest == pytest.approx(1)
    for delay in [20] * MANY:
        quick.add(delay)
    assert (quick.settled, quick.p_value) == (False, 1 / 40)

    quick = QuickControls(20, least=1 / 3)
    quick.add(25)
    assert not quick.settled
    quick.add(18)
    assert (quick.settled, quick.p_value) == (True, 1.0)
