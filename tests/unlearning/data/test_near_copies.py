"""Near-copies: what counts as one, among few and among all samples."""

import tracemalloc
from dataclasses import replace

import pytest
import torch

from tests.unlearning.small import WIDTH, samples
from unlearning.data.near_copies import NEAR, distinct_places, find_copies, group_copies, number_by_content, take_places
from unlearning.data.samples import SampleSet, joined

TRAIN, HELD_OUT = samples(200, seed=1), samples(100, seed=2)
USUAL = float(torch.cdist(HELD_OUT.inputs, TRAIN.inputs).amin(1).median())


def moved(given: SampleSet, distance: float, *, name: str) -> SampleSet:
    """Copies at a distance, in units of the usual one."""
    noise = torch.randn(given.inputs.shape, generator=torch.Generator().manual_seed(5))
    noise *= distance * USUAL / noise.norm(dim=1, keepdim=True)
    return replace(given, ids=tuple(f"{name}-{one}" for one in given.ids), inputs=given.inputs + noise)


def grouped(*parts: SampleSet, training: int) -> list[list[int]]:
    """The positions of the samples of each group of several."""
    groups = group_copies(joined(*parts), training=training)
    members = [[place for place, group in enumerate(groups) if group == number] for number in range(max(groups) + 1)]
    return [found for found in members if len(found) > 1]


@pytest.mark.parametrize(("distance", "found"), [(0.0, True), (0.9 * NEAR, True), (1.1 * NEAR, False)])
def test_how_near_a_copy_must_be(distance: float, found: bool) -> None:
    some = TRAIN.take(torch.arange(3))
    copies = moved(some, distance, name="copy")

    assert find_copies(copies, TRAIN, held_out=HELD_OUT).places.tolist() == ([0, 1, 2] if found else [-1] * 3)
    assert grouped(TRAIN, copies, HELD_OUT, training=203) == ([[0, 200], [1, 201], [2, 202]] if found else [])


def test_with_a_share_of_0_nothing_is_compared() -> None:
    found = find_copies(moved(TRAIN.take(torch.arange(3)), 0.0, name="copy"), TRAIN, held_out=HELD_OUT, within=0)

    assert (found.places.tolist(), found.compared) == ([-1] * 3, 0)


def test_a_copy_is_found_among_numbers_that_are_large() -> None:
    far = [replace(part, inputs=part.inputs + 3000) for part in (TRAIN, HELD_OUT)]
    copy = replace(moved(TRAIN.take(torch.tensor([150])), 0.1, name="copy"))
    copy = replace(copy, inputs=copy.inputs + 3000)

    assert find_copies(copy, far[0], held_out=far[1]).places.tolist() == [150]
    assert find_copies(
        far[0].take(torch.arange(2)), far[0].take(torch.arange(2, 200)), held_out=far[1]
    ).places.tolist() == [-1, -1]
    assert grouped(far[0], copy, far[1], training=201) == [[150, 200]]


def test_samples_in_groups_far_apart_are_no_copies() -> None:
    """As of tables with a column of large numbers, where products of rows say nothing of small distances."""
    apart = [
        replace(part, inputs=part.inputs + 1e5 * (torch.arange(len(part)) % 2)[:, None]) for part in (TRAIN, HELD_OUT)
    ]
    copy = moved(apart[0].take(torch.tensor([151])), 0.1, name="copy")

    assert find_copies(copy, apart[0], held_out=apart[1]).places.tolist() == [151]
    assert grouped(apart[0], copy, apart[1], training=201) == [[151, 200]]


def test_copies_of_copies_and_of_held_out_samples_are_in_one_group() -> None:
    first = moved(TRAIN.take(torch.tensor([7])), 0.2, name="first")
    second = replace(first, ids=("second",), inputs=2 * first.inputs - TRAIN.inputs[7:8])
    of_held_out = moved(HELD_OUT.take(torch.tensor([4])), 0.1, name="third")

    assert grouped(TRAIN, first, second, of_held_out, HELD_OUT, training=203) == [[7, 200, 201], [202, 203 + 4]]


def test_a_kind_of_sample_that_is_common_is_no_group_of_copies() -> None:
    """A person is not alone with a row of zeros that a tenth of all people have."""
    zeros = SampleSet(
        ids=tuple(f"zero-{number}" for number in range(40)),
        inputs=torch.zeros(40, WIDTH),
        targets=torch.zeros(40, dtype=torch.int64),
    )

    assert grouped(TRAIN, zeros, HELD_OUT, training=240) == []


def test_a_common_kind_of_sample_takes_little_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a third of a table's rows that are alike, all pairs are near: of a million rows they would take terabytes."""
    monkeypatch.setattr("unlearning.data.near_copies._PAIRS_LIMIT", 20_000, raising=False)
    noise = 1e-4 * torch.randn((800, WIDTH), generator=torch.Generator().manual_seed(6))
    alike = replace(samples(800, seed=3), ids=tuple(f"alike-{number}" for number in range(800)), inputs=noise)
    other = replace(samples(1000, seed=4), ids=tuple(f"other-{number}" for number in range(1000)))
    pool = joined(alike, other, moved(other.take(torch.arange(3)), 0.1, name="copy"), HELD_OUT)
    tracemalloc.start()
    try:
        groups = group_copies(pool, training=1803)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()

    assert groups[1800:1803].tolist() == groups[800:803].tolist()
    assert len(set(groups.tolist())) == len(pool) - 3
    assert peak < 3 * 2**20


def test_equal_samples_are_found_where_comparing_all_takes_too_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("unlearning.data.near_copies._ALL_COMPARISONS", 1)
    some = TRAIN.take(torch.arange(2))
    equal, near = replace(some, ids=("a", "b")), moved(some, 0.1, name="near")

    assert grouped(TRAIN, equal, near, HELD_OUT, training=204) == [[0, 200], [1, 201]]


def test_where_most_samples_are_equal_to_another_only_equal_ones_are_copies() -> None:
    """As of a table with few columns of few values: the usual distance is 0."""
    few = TRAIN.take(torch.arange(10))
    train, held_out = (
        SampleSet(
            ids=tuple(f"{name}-{number}" for number in range(count)),
            inputs=few.inputs[torch.arange(count) % 10],
            targets=few.targets[torch.arange(count) % 10],
        )
        for name, count in (("train", 200), ("held-out", 100))
    )
    other = moved(few.take(torch.tensor([3])), 0.01, name="other")

    assert find_copies(joined(few, other), train, held_out=held_out).found.tolist() == [True] * 10 + [False]


def test_nothing_is_found_without_held_out_samples_or_others() -> None:
    none = TRAIN.take(torch.arange(0))

    assert find_copies(TRAIN, none, held_out=HELD_OUT).compared == 0
    assert not find_copies(TRAIN, TRAIN, held_out=none).found.any()
    assert not find_copies(none, TRAIN, held_out=HELD_OUT).found.any()
    assert grouped(TRAIN, training=200) == []


def test_equal_are_samples_with_the_same_numbers_and_not_those_that_a_float_cannot_tell_apart() -> None:
    large = torch.tensor([2**24, 2**24 + 1, 2**24])[:, None]
    given = SampleSet(ids=("a", "b", "c"), inputs=large, targets=torch.tensor([0, 0, 1]))

    assert number_by_content(given).tolist() == [0, 1, 0]
    assert distinct_places(given).tolist() == [0, 1, 2]


def test_of_equal_samples_the_first_is_taken_and_a_set_without_any_is_not_copied() -> None:
    twice = joined(TRAIN, moved(TRAIN.take(torch.arange(3)), 0.0, name="copy"))

    assert take_places(twice, distinct_places(twice)).ids == TRAIN.ids
    assert take_places(TRAIN, distinct_places(TRAIN)) is TRAIN
