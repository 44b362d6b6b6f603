"""A training set that is a stream: one pass for the forget set, one an epoch for what remains, and little memory."""

import weakref
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import IterableDataset

from tests.unlearning.methods.test_conformance import OF_SOME_MODELS, spec_of
from tests.unlearning.small import PREPARED, same, start, state, task
from unlearning.data.samples import SampleSet, joined
from unlearning.data.stored import StoredSet, read_twice
from unlearning.errors import InvalidWorkload, MethodRefused, UnsupportedWorkload
from unlearning.methods.registry import METHODS
from unlearning.specs.suitability import NEEDS, Need
from unlearning.state import State
from unlearning.steps import run_to_completion
from unlearning.storage import load_training_checkpoint, save_training_checkpoint
from unlearning.task import Task


class Item(dict[str, Any]):
    """A dict that can be referred to weakly."""


class Stream(IterableDataset[Item]):
    """Gives the samples of a set in memory, counts its passes, and the most items that were alive at once."""

    def __init__(self, samples: SampleSet) -> None:
        self.items = [Item(id=name, x=x, y=y) for name, x, y in zip(samples.ids, *samples.batch, strict=True)]
        self.passes = self.most = 0

    def __iter__(self) -> Iterator[Item]:
        self.passes += 1
        given_out: list[weakref.ref[Item]] = []
        for item in self.items:
            given = Item(item)
            given_out.append(weakref.ref(given))
            self.most = max(self.most, sum(one() is not None for one in given_out))
            yield given
            del given


def of(stream: object, **options: Any) -> StoredSet:
    return StoredSet.of_stream(stream, **{"key": "id", "targets": "y", "inputs": lambda item: item["x"], **options})


def streamed(**options: Any) -> tuple[Task, Stream]:
    """The task whose training set is a stream: the forget set is spread over it."""
    given = task()
    whole = joined(given.forget, given.remain)
    stream = Stream(whole)
    train = of(stream, **options)
    forgotten = torch.zeros(len(train), dtype=torch.bool)
    forgotten[::5] = True
    given.forget, given.remain = (train.take(part.nonzero().flatten()) for part in (forgotten, ~forgotten))
    given = replace(given, recipe=replace(given.recipe, epochs=2))  # which reads the forget set
    return given, stream


def in_memory(given: Task) -> Task:
    return replace(given, remain=given.remain.in_memory(), model=given.model, state=State())


def test_the_forget_set_takes_one_pass_and_a_training_one_an_epoch() -> None:
    given, stream = streamed()
    assert stream.passes == 2
    wanted = in_memory(streamed()[0])
    for one in (given, wanted):
        run_to_completion(start(spec_of("retrain"), one))

    assert stream.passes == 2 + 2
    assert same(
        state(given.model), state(wanted.model)
    )  # one window holds all, so the order is that of a set in memory
    assert not given.forget.stored


def test_an_epoch_gives_each_sample_once_and_holds_two_windows_at_most() -> None:
    given, stream = streamed(window=10)
    wanted = given.remain.in_memory().inputs.sort(0).values
    stream.most, orders = 0, []
    for seed in (1, 2):
        batches = list(given.remain.epoch(8, torch.Generator().manual_seed(seed)))
        orders.append(torch.cat([batch.inputs for batch in batches]))
        assert torch.equal(orders[-1].sort(0).values, wanted)

    assert not torch.equal(*orders)
    assert stream.most <= 2 * 10 + 8 + 2  # the batch, and what is on its way


def test_what_reads_far_ahead_is_refused_in_place_of_filling_the_memory() -> None:
    given, _ = streamed(window=10)
    backwards = given.remain.take(torch.arange(len(given.remain)).flip(0))
    with pytest.raises(MethodRefused, match="20 of them"):
        list(backwards.batches(8))
    assert torch.equal(backwards.in_memory().inputs.flip(0), given.remain.in_memory().inputs)


@pytest.mark.parametrize("kind", sorted(METHODS.keys() - OF_SOME_MODELS))
def test_a_method_reads_a_stream_in_turn_or_refuses_it_before_anything_changes(kind: str) -> None:
    given, _ = streamed()
    given = PREPARED[kind](given) if kind in PREPARED else given
    before = state(given.model)
    if Need.RANDOM_ACCESS in NEEDS[kind]:
        with pytest.raises(MethodRefused, match="is a stream"):
            start(spec_of(kind), given)
        assert same(state(given.model), before)
        return
    run_to_completion(start(spec_of(kind), given))
    assert all(bool(tensor.isfinite().all()) for tensor in state(given.model).values())


def test_a_training_interrupted_in_mid_epoch_goes_on_in_the_stream(tmp_path: Path) -> None:
    whole, first, second = (streamed(window=10)[0] for _ in range(3))
    run_to_completion(start(spec_of("retrain"), whole))
    steps = start(spec_of("retrain"), first)
    for _ in range(8):  # of six an epoch
        next(steps)
    second.state = State(load_training_checkpoint(*save_training_checkpoint(first.state.snapshot(), tmp_path)))
    steps.close()
    run_to_completion(start(spec_of("retrain"), second))

    assert same(state(second.model), state(whole.model))


def test_inputs_may_be_several_tensors_and_columns_are_taken_from_the_items() -> None:
    stream = Stream(task().remain)
    pair = of(stream, inputs=lambda item: (item["x"], item["x"][:2]), subjects="id", slices=lambda item: 3)
    first, second = pair.in_memory().inputs
    assert (first.shape, second.shape) == ((96, 12), (96, 2))
    assert (pair.subjects, set(pair.slices or ())) == (pair.ids, {3})
    rest = of(stream, inputs=None).take(torch.tensor([4])).in_memory()
    assert torch.equal(rest.inputs["x"][0], stream.items[4]["x"])
    assert list(rest.inputs) == ["x"]


def test_two_streams_are_not_joined() -> None:
    given, _ = streamed()
    with pytest.raises(UnsupportedWorkload, match="is a stream"):
        joined(given.remain, given.guide)


def change(items: list[Any], place: int, **values: Any) -> list[Any]:
    return [Item(item | values) if number == place else item for number, item in enumerate(items)]


class Faulty:
    """Gives its items until one of them is an error; a second pass gives `later`."""

    def __init__(self, items: Sequence[Any], later: Sequence[Any] | None = None) -> None:
        self.passes = [items, later or items]

    def __iter__(self) -> Iterator[Any]:
        for item in self.passes.pop(0) if len(self.passes) > 1 else self.passes[0]:
            if isinstance(item, Exception):
                raise item
            yield item


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (lambda items: change(items, 17, id=items[3]["id"]), "places 3 and 17 .* same key"),
        (lambda items: change(items, 17, id=" "), "key at place 17"),
        (lambda items: change(items, 17, id=1.5), "key at place 17 .* float"),
        (lambda items: [*items[:17], {"x": 1, "y": 2}], "key .* place 17 is missing: KeyError"),
        (lambda items: [*items[:17], {"id": "a", "x": 1}], "targets .* place 17 is missing: KeyError"),
        (lambda items: [*items[:17], OSError("secret-name.png")], "place 17 cannot be read: OSError"),
        (lambda items: change(items, 17, y=torch.ones(3)), "targets .* one tensor"),
        (lambda items: [], "empty"),
    ],
)
def test_a_stream_that_cannot_be_used_is_refused_with_the_place(
    fault: Callable[[list[Any]], list[Any]], message: str
) -> None:
    items = Stream(task().remain).items
    names = {item["id"] for item in items}
    with pytest.raises(InvalidWorkload, match=message) as refusal:
        of(Faulty(fault(items)))
    assert "secret" not in str(refusal.value)
    assert not any(name in str(refusal.value) for name in names)


@pytest.mark.parametrize(
    ("later", "message"),
    [
        (lambda items: [*items[:17], items[18], items[17], *items[19:]], "another sample at place 17"),
        (lambda items: items[:20], "ends before place"),
        (lambda items: [*items[:17], ValueError("secret")], "place 17 cannot be read: ValueError"),
    ],
)
def test_a_stream_that_changes_between_passes_is_found_out(
    later: Callable[[list[Any]], list[Any]], message: str
) -> None:
    items = Stream(task().remain).items
    found = of(Faulty(items, later(items)))
    with pytest.raises(InvalidWorkload, match=message) as refusal:
        found.in_memory()
    assert "secret" not in str(refusal.value)


def test_content_that_changes_under_the_same_key_is_found_by_the_dry_run() -> None:
    items = Stream(task().remain).items
    found = of(Faulty(items, change(items, 5, x=items[6]["x"])))
    found.in_memory()
    with pytest.raises(InvalidWorkload, match="position 5"):
        read_twice(of(Alternating(items, change(items, 5, x=items[6]["x"]))))


class Alternating:
    """Gives one list of items, then the other, and so on."""

    def __init__(self, *lists: list[Any]) -> None:
        self.lists, self.passes = lists, 0

    def __iter__(self) -> Iterator[Any]:
        self.passes += 1
        return iter(self.lists[self.passes % 2])


def test_what_can_be_read_only_once_is_refused() -> None:
    items = Stream(task().remain).items
    with pytest.raises(UnsupportedWorkload, match="once only"):
        of(item for item in items)
    with pytest.raises(UnsupportedWorkload, match="cannot be iterated"):
        of(17)
