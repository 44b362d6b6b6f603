import itertools
import random
import traceback
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch
import torch.utils.data
from torch import Tensor

from tests.unlearning.small import OBJECTIVE, RECIPE, WIDTH, plain, same, samples, start, state, task
from unlearning.audit.comparison import compare_with_chance
from unlearning.audit.signals import observe
from unlearning.data.batches import same_inputs
from unlearning.data.loading import READ_SIZE, stream
from unlearning.data.near_copies import find_copies
from unlearning.data.samples import SampleSet, joined
from unlearning.data.stored import StoredSet, read_twice
from unlearning.errors import InvalidWorkload, UnsupportedWorkload
from unlearning.random_state import isolated
from unlearning.specs import Retrain
from unlearning.state import State
from unlearning.steps import run_to_completion
from unlearning.training.loop import fit, fresh, train_steps
from unlearning.training.references import sample_signals, subject_groups

GIVEN = samples(50, seed=1)


@dataclass
class Items(torch.utils.data.Dataset[Any]):
    """Samples of a set, one by one, as `form` makes them of an input and a target. read: the numbers of all items read."""

    samples: SampleSet
    form: Callable[[Tensor, Tensor], Any] = lambda x, y: (x, y)
    fault: Callable[[int], None] = lambda number: None
    read: list[int] | None = None

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, number: int) -> Any:
        self.fault(number)
        if self.read is not None:
            self.read.append(number)
        return self.form(self.samples.inputs[number], self.samples.targets[number])


def stored(form: Callable[[Tensor, Tensor], Any] = lambda x, y: (x, y), **options: Any) -> StoredSet:
    return StoredSet.of(Items(GIVEN, form), **{"ids": GIVEN.ids, **options})


@dataclass
class Columns(Items):
    """A data set with columns, as Hugging Face's have."""

    column_names: tuple[str, ...] = ("x", "label", "id", "person")

    def with_format(self, form: None) -> dict[str, list[Any]]:
        people = [f"person-{number // 2}" for number in range(len(self))]
        return {"label": self.samples.targets.tolist(), "id": list(self.samples.ids), "person": people}


def of_hugging_face(targets: Any) -> StoredSet:
    """A set of the real library's, which Expunge does not install."""
    datasets = pytest.importorskip("datasets")
    columns = {"x": GIVEN.inputs.tolist(), "id": list(GIVEN.ids), "person": [f"person-{n // 2}" for n in range(50)]}
    labelled = columns if isinstance(targets, Tensor) else columns | {"label": GIVEN.targets.tolist()}
    table = datasets.Dataset.from_dict(labelled).with_format("torch")
    return StoredSet.of(table, ids="id", targets=targets, subjects="person")


FORMS: dict[str, Callable[[], StoredSet]] = {
    "pairs": stored,
    "dicts": lambda: stored(lambda x, y: {"x": x, "label": y}, targets="label"),
    "columns": lambda: StoredSet.of(
        Columns(GIVEN, lambda x, y: {"x": x, "label": y}), ids="id", targets="label", subjects="person"
    ),
    "dicts with an ID and a subject": lambda: StoredSet.of(
        [
            {"x": x, "label": y, "id": sample, "person": f"person-{number // 2}"}
            for number, (x, y, sample) in enumerate(zip(GIVEN.inputs, GIVEN.targets, GIVEN.ids, strict=True))
        ],
        ids="id",
        targets="label",
        subjects="person",
    ),
    "Hugging Face": lambda: of_hugging_face(targets="label"),
    "Hugging Face, targets beside": lambda: of_hugging_face(targets=GIVEN.targets),
    "inputs alone": lambda: stored(lambda x, y: x, targets=GIVEN.targets.tolist()),
    "an array": lambda: StoredSet.of(GIVEN.inputs.numpy(), ids=lambda number: GIVEN.ids[number], targets=GIVEN.targets),
    "an own collate function": lambda: stored(
        collate_fn=lambda items: (torch.stack([x for x, _ in items]), torch.stack([y for _, y in items]))
    ),
    "two processes": lambda: stored(num_workers=2),
}


@pytest.mark.parametrize("name", FORMS)
def test_any_map_style_data_set_gives_the_samples_that_tensors_would(name: str) -> None:
    made = FORMS[name]()
    index = torch.tensor([7, 3, 41])
    for found, expected in (
        (made.select(index), GIVEN.select(index)),
        (made.take(index).batch, GIVEN.select(index)),
        *zip(made.batches(8), GIVEN.batches(8), strict=True),
        *zip(*(part.epoch(8, torch.Generator().manual_seed(3)) for part in (made, GIVEN)), strict=True),
    ):
        inputs = found.inputs["x"] if isinstance(found.inputs, dict) else found.inputs
        assert torch.equal(inputs, expected.inputs)
        assert torch.equal(found.targets, expected.targets)
    assert made.ids == GIVEN.ids
    assert torch.equal(made.targets, GIVEN.targets)
    assert torch.equal(made.take(index).targets, GIVEN.targets[index])
    assert made.take(index).in_memory().ids == tuple(GIVEN.ids[i] for i in index)
    assert (made.subjects is not None) == (name == "columns" or "subject" in name or "Hugging" in name)


def test_batches_for_a_gpu_are_read_into_pinned_memory() -> None:
    """Where there is no GPU torch says that it was asked to pin. Other tests show that it is not asked for the CPU."""
    made = stored(num_workers=2)
    asked = nullcontext() if torch.cuda.is_available() else pytest.warns(UserWarning, match="pin_memory")
    with asked:
        batches = list(stream(made.source, made.index.split(8), workers=2, pin=True))
    assert len(batches) == 7
    assert all(batch.targets.is_pinned() == torch.cuda.is_available() for batch in batches)


def test_targets_are_read_once_and_not_at_all_where_they_are_given() -> None:
    read: list[int] = []
    made = StoredSet.of(Items(GIVEN, read=read), ids=GIVEN.ids)
    part = made.take(torch.arange(20))
    assert torch.equal(part.to("cpu").targets, GIVEN.targets[:20])
    assert sorted(read) == list(range(20))
    assert torch.equal(made.targets, GIVEN.targets)
    assert sorted(read) == list(range(50))

    read.clear()
    given = StoredSet.of(Items(GIVEN, read=read), ids=GIVEN.ids, targets=GIVEN.targets)
    assert torch.equal(given.convert_targets(lambda targets: targets + 1).targets, GIVEN.targets + 1)
    assert read == []


def test_targets_are_converted_when_they_are_read() -> None:
    made = (
        stored(num_workers=2).convert_targets(lambda targets: targets * 2).convert_targets(lambda targets: targets + 1)
    )

    assert torch.equal(made.targets, 2 * GIVEN.targets + 1)
    assert torch.equal(made.select(torch.tensor([4])).targets, 2 * GIVEN.targets[[4]] + 1)


def test_stored_sets_and_tensors_are_joined_without_reading() -> None:
    read: list[int] = []
    others = samples(20, seed=2)
    made = StoredSet.of(Items(GIVEN, read=read), ids=GIVEN.ids)
    more = StoredSet.of(Items(others, read=read), ids=others.ids)
    held = replace(samples(5, seed=3), subjects=("a", "b", "c", "d", "e"))
    whole = joined(made.take(torch.arange(30)), held, more, made.take(torch.arange(30, 50)))
    assert read == []

    expected = joined(GIVEN.take(torch.arange(30)), held, others, GIVEN.take(torch.arange(30, 50)))
    assert whole.ids == expected.ids
    assert whole.subjects == expected.subjects
    index = torch.randperm(len(expected), generator=torch.Generator().manual_seed(0))[:40]
    for found in (whole.select(index), whole.take(index).batch, next(whole.stream([index]))):
        assert torch.equal(found.inputs, expected.inputs[index])
        assert torch.equal(found.targets, expected.targets[index])
    assert torch.equal(whole.take(index).targets, expected.targets[index])
    again = joined(made.take(torch.arange(30)), made.take(torch.arange(30, 50)))
    assert torch.equal(again.targets, GIVEN.targets)


def noisy(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Draws from each generator that augmentations use."""
    return x + 0.1 * torch.randn(WIDTH) + 0.1 * random.random() + 0.1 * np.random.rand(), y


def trained(made: SampleSet, *, stop_after: int | None = None) -> dict[str, Tensor]:
    """Train; with `stop_after` stop after so many steps, and continue from the training checkpoint."""
    model = fresh(plain, seed=0)
    recipe = replace(RECIPE, epochs=3, batch_size=8)
    saved: dict[str, Any] = {}
    if stop_after is not None:
        first = State()
        steps = isolated(
            train_steps(model, made, recipe, objective=OBJECTIVE, seed=5, state=first), seed=5, state=first
        )
        for _ in range(stop_after):
            next(steps)
        saved = _copied(first.snapshot())
        steps.close()
        model = fresh(plain, seed=1)
    resumed = State(resumed=saved)
    steps = isolated(
        train_steps(model, made, recipe, objective=OBJECTIVE, seed=5, state=resumed), seed=5, state=resumed
    )
    run_to_completion(steps)
    return state(model)


def _copied(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.clone()
    if isinstance(value, dict):
        return {name: _copied(entry) for name, entry in value.items()}
    return [_copied(entry) for entry in value] if isinstance(value, list) else value


def test_training_gives_the_same_weights_by_any_number_of_processes_and_after_a_stop_in_mid_epoch() -> None:
    augmented = {"training": Items(GIVEN, noisy)}
    by_itself = trained(stored(**augmented))

    assert same(trained(stored(num_workers=2, **augmented)), by_itself)
    assert same(trained(stored(num_workers=2, **augmented), stop_after=9), by_itself)
    assert not same(trained(stored()), by_itself)
    assert same(trained(stored()), trained(GIVEN))


def test_augmentation_is_for_training_steps_alone_and_leaves_the_random_state() -> None:
    made, index = stored(training=Items(GIVEN, noisy)), torch.arange(20)
    before = torch.get_rng_state(), random.getstate()
    varied = made.select(index, training=True).inputs
    assert torch.equal(before[0], torch.get_rng_state())
    assert before[1] == random.getstate()

    assert not torch.equal(varied, GIVEN.inputs[index])
    assert torch.equal(varied, made.select(index, training=True).inputs)
    assert not torch.equal(varied.flip(0), made.select(index.flip(0), training=True).inputs)
    assert torch.equal(made.take(index).in_memory().inputs, GIVEN.inputs[index])
    assert all(torch.equal(batch.inputs, made.select(index).inputs) for batch in made.take(index).batches(20))
    assert not torch.equal(made.draw(50, torch.Generator()).inputs.sort(0).values, GIVEN.inputs.sort(0).values)


def failing(number: int) -> None:
    if number == 17:
        raise KeyError("private")


def changing(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    return (x + torch.rand(1) if torch.equal(x, GIVEN.inputs[17]) else x), y


def spoilt(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    return (x / 0 if torch.equal(x, GIVEN.inputs[17]) else x), y


BAD: dict[str, tuple[Callable[..., StoredSet], str]] = {
    "raises": (
        lambda **options: StoredSet.of(Items(GIVEN, fault=failing), ids=GIVEN.ids, **options),
        r"position 17 cannot be read: KeyError in test_stored\.py",
    ),
    "not finite": (lambda **options: stored(spoilt, **options), "position 17 has a number in its inputs"),
    "lost rows": (
        lambda **options: stored(collate_fn=lambda items: torch.utils.data.default_collate(items[1:]), **options),
        "50 samples from position 0 has 49 rows|8 samples from position .* has 7 rows",
    ),
    "no tensors": (lambda **options: stored(lambda x, y: ("private", y), **options), "hold a str"),
    "ragged": (
        lambda **options: stored(lambda x, y: (x[: 3 + int(y)], y), **options),
        "collate function cannot make a batch of the .* items from position 0: RuntimeError",
    ),
    "no targets": (lambda **options: stored(lambda x, y: x, **options), "gives no targets"),
    "no such entry": (
        lambda **options: stored(lambda x, y: {"x": x, "label": y}, targets="labels", **options),
        "no entry 'labels'",
    ),
    "a short training variant of an item": (
        lambda **options: StoredSet.of(Items(GIVEN), ids=GIVEN.ids, training=Items(GIVEN, fault=failing), **options),
        "position 17 cannot be read",
    ),
}


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("name", BAD)
def test_what_cannot_be_read_is_named_by_its_position_and_never_by_its_content(name: str, workers: int) -> None:
    make, message = BAD[name]
    with pytest.raises(InvalidWorkload, match=message) as refusal:
        list(make(num_workers=workers).stream(torch.arange(50).split(8), training=True))

    assert "private" not in "".join(traceback.format_exception(refusal.value))
    if name == "raises":
        assert type(refusal.value.__cause__) is KeyError  # from which a worker tells whether it may pass


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: stored(ids=GIVEN.ids[:-1]), "50 items and 49 ids"),
        (lambda: stored(ids=["private"] * 50), "only 1 distinct"),
        (lambda: stored(targets=GIVEN.targets[:-1]), "50 items and 49 targets"),
        (lambda: stored(subjects=GIVEN.ids[:-1]), "50 ids and 49 subjects"),
        (lambda: stored(training=Items(samples(49, seed=1))), "50 items and its variant for training 49"),
        (lambda: stored(ids="number"), "position 0 cannot be read"),
        (lambda: StoredSet.of(Columns(GIVEN), ids="number"), "no column 'number'; it has x, label"),
        (lambda: StoredSet.of(iter([1]), ids=["a"]), "no length"),
    ],
)
def test_a_set_whose_parts_do_not_fit_is_refused_when_it_is_made(make: Callable[[], object], message: str) -> None:
    with pytest.raises(InvalidWorkload, match=message) as refusal:
        make()

    assert "private" not in str(refusal.value)


def test_a_sample_that_changes_between_two_readings_is_noticed() -> None:
    with pytest.raises(InvalidWorkload, match="position 17 has other inputs each time"):
        read_twice(stored(changing).take(torch.tensor([3, 17, 20])))

    assert same_inputs(read_twice(stored()).inputs, GIVEN.inputs)
    assert read_twice(GIVEN) is GIVEN


def test_batches_padded_to_different_lengths_cannot_be_joined() -> None:
    lengths = [3 + number for number in range(6)]
    made = StoredSet.of(
        lengths,
        ids=lambda number: number,
        targets=lengths,
        collate_fn=lambda items: torch.zeros(len(items), max(items)),
    )
    assert made.batch.size == 6  # one batch, of one length
    with pytest.raises(UnsupportedWorkload, match="padding='max_length'"):
        joined(made, samples(2, seed=1)).batch  # noqa: B018


def test_a_model_trained_on_a_stored_set_is_that_of_the_tensors() -> None:
    recipe = replace(RECIPE, epochs=1)
    models = [fit(plain, made, recipe, objective=OBJECTIVE, seed=1) for made in (GIVEN, stored())]

    assert same(*(state(model) for model in models))


@pytest.mark.parametrize("reads", [False, True])
def test_each_step_says_how_long_it_waited_for_samples_that_are_read(reads: bool) -> None:
    given = task(plain)
    if reads:
        given.remain = StoredSet.of(Items(given.remain), ids=given.remain.ids)

    steps = list(itertools.islice(start(Retrain(), given), 3))

    assert [step.waited > 0 for step in steps] == [reads] * 3


MANY = samples(1000, seed=7)
FEW, OTHERS = samples(40, seed=8), samples(60, seed=9)


@pytest.mark.parametrize(
    "act",
    [
        lambda given: given.targets.tolist(),
        lambda given: subject_groups(given, training=900, near_copies=0.5).tolist(),
        lambda given: find_copies(FEW, given, held_out=OTHERS).places.tolist(),
        lambda given: observe(fresh(plain, seed=0).eval(), given, objective=OBJECTIVE).loss.tolist(),
        lambda given: sample_signals(fresh(plain, seed=0).eval(), given, OBJECTIVE)[0].tolist(),
        lambda given: compare_with_chance(fresh(plain, seed=0).eval(), given, objective=OBJECTIVE),
    ],
    ids=["targets", "subjects", "copies", "audit", "references", "chance"],
)
def test_what_goes_through_a_whole_set_reads_some_samples_at_a_time_and_finds_the_same(
    act: Callable[[SampleSet], object],
) -> None:
    sizes: list[int] = []

    def collate(items: list[Any]) -> Any:
        sizes.append(len(items))
        return torch.utils.data.default_collate(items)

    made = StoredSet.of(Items(MANY), ids=MANY.ids, collate_fn=collate)

    assert act(made) == act(MANY)
    assert len(sizes) >= 1000 // READ_SIZE
    assert max(sizes) == READ_SIZE
