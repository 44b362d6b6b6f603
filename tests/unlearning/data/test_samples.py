import dataclasses
from collections import UserDict
from collections.abc import Callable
from itertools import islice

import numpy as np
import pytest
import torch
import torch.utils.data

from tests.unlearning.small import samples
from unlearning.data.batches import Batch, joined_batch
from unlearning.data.samples import SampleSet, dealt, joined, partition
from unlearning.errors import InvalidWorkload, UnsupportedWorkload

GIVEN = samples(50, seed=1)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_taken_samples_keep_their_ids_and_order() -> None:
    taken = GIVEN.take(torch.tensor([7, 3]))

    assert taken.ids == (GIVEN.ids[7], GIVEN.ids[3])
    assert torch.equal(taken.inputs, GIVEN.inputs[[7, 3]])
    assert torch.equal(taken.targets, GIVEN.targets[[7, 3]])


@pytest.mark.parametrize("size", [1, 7, 16, 49, 50, 64])
def test_an_epoch_shows_every_sample_once_and_no_lone_one_last(size: int) -> None:
    batches = list(GIVEN.epoch(size, generator()))
    shown = torch.cat([batch.inputs for batch in batches])

    assert sorted(map(tuple, shown.tolist())) == sorted(map(tuple, GIVEN.inputs.tolist()))
    assert len(batches) == GIVEN.batch_count(size)
    assert all(len(batch.targets) == size for batch in batches[:-1])
    assert size == 1 or all(len(batch.targets) > 1 for batch in batches)


def test_a_single_sample_is_a_batch() -> None:
    (batch,) = GIVEN.take(torch.tensor([4])).epoch(16, generator())

    assert len(batch.targets) == 1


def test_drawn_samples_are_distinct_and_all_where_there_are_fewer() -> None:
    drawn = GIVEN.draw(20, generator())

    assert len({tuple(inputs) for inputs in drawn.inputs.tolist()}) == 20
    assert len(GIVEN.draw(500, generator()).targets) == 50


def test_parts_are_disjoint_seeded_and_of_the_sizes_asked_for() -> None:
    parts, again, other = (partition(GIVEN, (20, 10, 15), seed=seed) for seed in (1, 1, 2))

    assert [len(part) for part in parts] == [20, 10, 15]
    assert len({sample for part in parts for sample in part.ids}) == 45
    assert [part.ids for part in parts] == [part.ids for part in again]
    assert [part.ids for part in parts] != [part.ids for part in other]


def test_more_than_there_is_cannot_be_parted() -> None:
    with pytest.raises(InvalidWorkload, match="need 51 samples; there are 50"):
        partition(GIVEN, (50, 1), seed=0)


def test_lengths_that_differ_are_refused() -> None:
    with pytest.raises(InvalidWorkload, match="2 ids, 3 inputs, 3 targets"):
        SampleSet(ids=("a", "b"), inputs=torch.zeros(3, 2), targets=torch.zeros(3))


def test_an_id_that_stands_twice_is_refused_without_being_named() -> None:
    with pytest.raises(InvalidWorkload, match="only 1 distinct") as refusal:
        SampleSet(ids=("private", "private"), inputs=torch.zeros(2, 2), targets=torch.zeros(2))

    assert "private" not in str(refusal.value)


@pytest.mark.parametrize("keys", [range(3), np.arange(3), torch.arange(3)], ids=["int", "numpy", "torch"])
def test_integer_ids_and_subjects_become_digits_once(keys: object) -> None:
    made = SampleSet(ids=tuple(keys), inputs=torch.zeros(3, 2), targets=torch.zeros(3), subjects=tuple(keys))  # type: ignore[call-overload]

    assert made.ids == made.subjects == ("0", "1", "2")
    assert made.take(torch.tensor([2])).ids == ("2",)


def test_an_integer_and_its_digits_are_the_same_id() -> None:
    with pytest.raises(InvalidWorkload, match="only 1 distinct"):
        SampleSet(ids=(1, "1"), inputs=torch.zeros(2, 2), targets=torch.zeros(2))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "bad", ["", " private", "private ", "private\n", "p" * 201, "private\ud800", 1.5, None, b"private"]
)
@pytest.mark.parametrize("field", ["ids", "subjects"])
def test_a_set_with_an_id_that_no_request_can_name_is_refused_by_its_position(field: str, bad: object) -> None:
    given = {"ids": ("a", "b"), field: ("a", bad)}
    with pytest.raises(InvalidWorkload, match="at position 1 ") as refusal:
        SampleSet(**given, inputs=torch.zeros(2, 2), targets=torch.zeros(2))  # type: ignore[arg-type]

    assert "private" not in str(refusal.value)


class Listed(torch.utils.data.Dataset[torch.Tensor]):
    def __len__(self) -> int:
        return 3

    def __getitem__(self, index: int) -> torch.Tensor:
        return torch.zeros(4)


@pytest.mark.parametrize(
    ("inputs", "found"),
    [
        (Listed(), "Dataset|Listed"),
        (np.zeros((3, 2)), "a ndarray"),
        ({"ids": torch.zeros(3), "mask": None}, "NoneType|dict"),
        ([[0.0], [1.0], [2.0]], "a float|a list"),
        (torch.eye(3).to_sparse(), "dense"),
        (torch.nested.nested_tensor([torch.zeros(1), torch.zeros(2)], layout=torch.jagged), "dense"),
    ],
    ids=["Dataset", "array", "none", "numbers", "sparse", "nested"],
)
def test_what_is_no_tensor_in_memory_is_refused(inputs: object, found: str) -> None:
    tensor = torch.zeros(3)
    for fields in ({"inputs": inputs, "targets": tensor}, {"inputs": tensor, "targets": inputs}):
        with pytest.raises(UnsupportedWorkload, match=found):
            SampleSet(ids=("a", "b", "c"), **fields)  # type: ignore[arg-type]


def test_inputs_of_several_tensors_stay_together() -> None:
    """Whatever the mapping is, batches hold a plain dict: models and objectives see one kind."""
    tokens, mask = torch.arange(12).view(4, 3), torch.eye(4, 3)
    made = SampleSet(
        ids=("a", "b", "c", "d"), inputs=UserDict(tokens=tokens, more=(mask, [mask * 2])), targets=torch.arange(4)
    )
    chosen = torch.tensor([3, 1])
    for found in (made.take(chosen).batch, made.select(chosen), joined(made, renamed(made)).select(chosen + 4)):
        assert type(found.inputs) is dict
        assert torch.equal(found.inputs["tokens"], tokens[chosen])
        assert torch.equal(found.inputs["more"][1][0], 2 * mask[chosen])
        assert found.targets.tolist() == [3, 1]
    assert [batch.size for batch in made.batches(3)] == [3, 1]
    assert torch.equal(torch.cat([batch.inputs["tokens"] for batch in made.batches(3)]), tokens)


def renamed(samples: SampleSet) -> SampleSet:
    return dataclasses.replace(samples, ids=tuple(f"other-{name}" for name in samples.ids))


def test_a_tensor_of_the_inputs_with_another_number_of_rows_is_refused() -> None:
    with pytest.raises(InvalidWorkload, match="2 ids, 2 or 3 inputs, 2 targets"):
        SampleSet(ids=("a", "b"), inputs={"x": torch.zeros(2), "y": torch.zeros(3)}, targets=torch.zeros(2))


@pytest.mark.parametrize(
    ("other", "found"),
    [
        ({"x": torch.zeros(2, 5), "y": torch.zeros(2)}, "padding='max_length'"),
        ({"x": torch.zeros(2, 3), "z": torch.zeros(2)}, "different keys"),
        ((torch.zeros(2, 3), torch.zeros(2)), "structure"),
    ],
)
def test_batches_whose_samples_are_built_otherwise_cannot_be_joined(other: object, found: str) -> None:
    one = Batch({"x": torch.zeros(2, 3), "y": torch.zeros(2)}, torch.zeros(2))
    with pytest.raises(UnsupportedWorkload, match=found):
        joined_batch(one, Batch(other, torch.zeros(2)))


def shuffled(count: int, seed: int = 0) -> Callable[[], list[int]]:
    of = generator(seed)
    return lambda: torch.randperm(count, generator=of).tolist()


@pytest.mark.parametrize(("count", "size"), [(10, 3), (10, 10), (7, 5), (3, 8), (1, 1), (300, 64)])
def test_positions_are_dealt_like_cards(count: int, size: int) -> None:
    used = torch.zeros(count, dtype=torch.int64)
    for places in islice(dealt(shuffled(count), size), 200):
        assert len(places) == min(count, size) == len(set(places))
        used[places] += 1
        assert int(used.max() - used.min()) <= 1
    assert int(used.sum()) == 200 * min(count, size)


def test_every_round_is_shuffled_anew() -> None:
    rounds = list(islice(dealt(shuffled(12, seed=1), 12), 3))
    assert len(set(map(tuple, rounds))) == 3
    assert rounds == list(islice(dealt(shuffled(12, seed=1), 12), 3))
