import dataclasses
from typing import Any

import pytest
import torch

from tests.unlearning.small import CLASSES, OBJECTIVE, RECIPE, plain, samples
from unlearning.data.objectives import number_labels, regression
from unlearning.data.samples import SampleSet
from unlearning.data.stored import StoredSet
from unlearning.data.workload import (
    FINGERPRINTS,
    OwnTraining,
    Workload,
    check_data,
    check_fingerprints,
    check_targets,
    split_held_out,
)
from unlearning.errors import InvalidWorkload, UnsupportedWorkload
from unlearning.specs.training import Ready2Unlearn

TRAIN, HELD_OUT, TEST = (samples(n, seed=seed) for n, seed in ((40, 1), (21, 2), (10, 3)))


def workload(**changes: SampleSet) -> Workload:
    sets = {"train": TRAIN, "held_out": HELD_OUT, "test": TEST, **changes}
    return Workload(name="small", build=plain, objective=OBJECTIVE, recipe=RECIPE, **sets)


def test_what_is_called_must_take_what_it_is_given() -> None:
    good = {
        "name": "small",
        "objective": OBJECTIVE,
        "recipe": RECIPE,
        "train": TRAIN,
        "held_out": HELD_OUT,
        "test": TEST,
    }
    assert Workload(build=lambda size=3: plain(), trainer=lambda *given: None, **good)
    for wrong, message in (
        ({"build": plain()}, "`build` is a "),
        ({"build": lambda size: plain()}, r"`build` cannot be called as build\(\), because it takes \(size\)"),
        (
            {"trainer": lambda model, data: None},
            r"called as train\(model, data, run\), because it takes \(model, data\)",
        ),
        ({"trainer": "adamw"}, "`trainer` is a str; give the function"),
        ({"test": (TEST.inputs, TEST.targets)}, "`test` is a tuple; make a SampleSet"),
    ):
        with pytest.raises(InvalidWorkload, match=message):
            Workload(**{"build": plain, **good, **wrong})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sharded": torch.nn.Linear}, "True, or a tuple"),
        ({"sharded": ("Linear",)}, "True, or a tuple"),
        ({"sharded": True, "trainer": lambda model, data, run: None}, "a `trainer`"),
        ({"sharded": True, "recipe": dataclasses.replace(RECIPE, readiness=Ready2Unlearn())}, "Ready2Unlearn"),
    ],
)
def test_what_cannot_be_done_in_parts_is_refused(change: dict[str, Any], message: str) -> None:
    given = {"name": "small", "build": plain, "objective": OBJECTIVE, "recipe": RECIPE}
    with pytest.raises(InvalidWorkload, match=message):
        Workload(**given | {"train": TRAIN, "held_out": HELD_OUT, "test": TEST} | change)


def test_disjoint_sets_hold_together() -> None:
    assert len(workload().train) == 40


@pytest.mark.parametrize("change", [{"held_out": TRAIN}, {"test": TRAIN}, {"test": HELD_OUT}])
def test_sets_that_share_a_sample_are_refused_without_naming_it(change: dict[str, SampleSet]) -> None:
    with pytest.raises(InvalidWorkload, match="must be disjoint") as refusal:
        workload(**change)

    assert TRAIN.ids[0] not in str(refusal.value)


@pytest.mark.parametrize(("name", "count"), [("train", 0), ("held_out", 0), ("held_out", 2), ("test", 0)])
def test_sets_too_small_to_serve_are_refused(name: str, count: int) -> None:
    few = {"train": TRAIN, "held_out": HELD_OUT, "test": TEST}[name].take(torch.arange(count))
    with pytest.raises(InvalidWorkload, match="empty"):
        workload(**{name: few})


@pytest.mark.parametrize("count", [3, 4, 21])
def test_the_held_out_set_is_split_into_three_disjoint_parts(count: int) -> None:
    held_out = HELD_OUT.take(torch.arange(count))
    split = split_held_out(held_out)
    parts = [getattr(split, field.name) for field in dataclasses.fields(split)]

    assert sum(map(len, parts)) == count
    assert min(map(len, parts)) >= 1
    assert {sample for part in parts for sample in part.ids} == set(held_out.ids)


def test_the_split_is_the_same_every_time() -> None:
    assert split_held_out(HELD_OUT).audit.ids == split_held_out(HELD_OUT).audit.ids


def test_an_objective_learns_held_out_targets_alone() -> None:
    """Training samples may be forgotten, and weights trained anew must not depend on them."""
    sets = {
        name: dataclasses.replace(given, targets=factor * torch.arange(1.0, len(given) + 1))
        for name, given, factor in (("train", TRAIN, 100.0), ("held_out", HELD_OUT, 2.0), ("test", TEST, 100.0))
    }
    made = dataclasses.replace(workload(), objective=regression(), **sets)
    off_by_a_deviation = made.train.targets + made.held_out.targets.std(correction=0)
    losses = made.objective.losses(lambda inputs: off_by_a_deviation, made.train.batch)

    torch.testing.assert_close(losses, torch.full((len(TRAIN),), 0.5))
    assert made.fitted_to == "held_out"
    assert workload().fitted_to is None
    assert dataclasses.replace(made, trainer=lambda model, data, run: None).fitted_to is None


LABELS = TRAIN.targets


def relabelled(targets: torch.Tensor) -> SampleSet:
    return dataclasses.replace(TRAIN, targets=targets)


@pytest.mark.parametrize(
    "targets",
    [
        LABELS,
        LABELS.to(torch.int32),
        LABELS.to(torch.uint8),
        LABELS[:, None],
        LABELS[:, None].to(torch.int16),
        LABELS.float(),
        torch.nn.functional.one_hot(LABELS, CLASSES),
        torch.nn.functional.one_hot(LABELS, CLASSES).bool(),
        torch.nn.functional.one_hot(LABELS, CLASSES).float(),
    ],
    ids=["int64", "int32", "uint8", "column", "short column", "float", "one-hot", "one-hot bool", "one-hot float"],
)
def test_labels_in_another_form_become_int64(targets: torch.Tensor) -> None:
    found = workload(train=relabelled(targets)).train

    assert found.targets.dtype == torch.int64
    assert torch.equal(found.targets, LABELS)
    assert found.ids == TRAIN.ids


@pytest.mark.parametrize(
    ("targets", "message"),
    [
        (LABELS + 1, r"from 1 to 4; 4 classes have the labels 0 to 3\. Subtract 1\."),
        (LABELS * 2, "from 0 to 6"),
        (LABELS - 1, "from -1 to 2"),
        (torch.where(torch.arange(40) % 8 == 0, -100, LABELS), "5 samples of the train set have the label -100"),
    ],
)
def test_labels_outside_the_classes_are_refused_with_what_to_do(targets: torch.Tensor, message: str) -> None:
    with pytest.raises(InvalidWorkload, match=message):
        workload(train=relabelled(targets))


def test_labels_of_any_kind_are_numbered_in_the_order_of_the_outputs() -> None:
    names = ["late", "on time", "early", "lost"]
    texts = [names[label] for label in LABELS]
    from_one = (LABELS + 1) * 10

    assert torch.equal(workload(train=relabelled(number_labels(texts, names))).train.targets, LABELS)
    assert torch.equal(number_labels(from_one, [10, 20, 30, 40]), LABELS)
    assert torch.equal(number_labels(from_one, [40, 30, 20, 10]), 3 - LABELS)
    with pytest.raises(InvalidWorkload, match="position 2 is none of the 2 names") as refusal:
        number_labels(["a", "b", "anna"], ["a", "b"])
    assert "anna" not in str(refusal.value)
    with pytest.raises(InvalidWorkload, match="only 1 of them"):
        number_labels(["a"], ["a", "a"])


@pytest.mark.parametrize(
    "targets",
    [
        torch.rand(40),
        torch.full((40,), torch.nan),
        torch.randn(40, 1) * 30_000,
        (torch.rand(40, CLASSES) > 0.5).float(),
        torch.randint(50, (40, 12)),
        LABELS + 0.0j,
    ],
    ids=["regression", "nan", "regression column", "multi-label", "language model", "complex"],
)
def test_targets_that_are_no_labels_are_refused_with_what_is_supported(targets: torch.Tensor) -> None:
    with pytest.raises(UnsupportedWorkload, match="One label a sample is needed"):
        workload(train=relabelled(targets))


def test_without_classes_any_target_will_do() -> None:
    made = dataclasses.replace(
        workload(train=relabelled(LABELS)), objective=dataclasses.replace(OBJECTIVE, logits=None, classes=None)
    )
    prices = dataclasses.replace(made, train=relabelled(torch.rand(40, 1) * 30_000))

    assert prices.train.targets.shape == (40, 1)


@pytest.mark.parametrize("targets", [LABELS.to(torch.uint8), LABELS[:, None]])
def test_a_method_and_an_audit_refuse_labels_that_no_workload_has_converted(targets: torch.Tensor) -> None:
    with pytest.raises(InvalidWorkload, match="a Workload converts them"):
        check_targets(relabelled(targets), OBJECTIVE, name="forget")


def test_the_data_of_a_workload_are_checked_to_be_finite_numbers_and_labels() -> None:
    made = workload()
    check_data(made)
    inputs = TRAIN.inputs.clone()
    inputs[7, 2] = torch.nan
    with pytest.raises(InvalidWorkload, match="train set has inputs at position 7 that are not finite"):
        check_data(workload(train=dataclasses.replace(TRAIN, inputs=inputs)))


def test_the_labels_of_a_stored_set_are_checked_when_they_are_read_and_not_when_the_workload_is_made() -> None:
    items = [(inputs, target) for inputs, target in zip(TRAIN.inputs, TRAIN.targets.tolist(), strict=True)]
    made = workload(train=StoredSet.of(items, ids=TRAIN.ids, num_workers=2))
    check_data(made)
    assert torch.equal(made.train.targets, TRAIN.targets)

    wrong = workload(train=StoredSet.of([(x, y + 1) for x, y in items], ids=TRAIN.ids))
    with pytest.raises(InvalidWorkload, match="The train set has labels"):
        check_data(wrong)


def test_a_workload_says_how_it_is_trained() -> None:
    sets = {"train": samples(9, seed=1), "held_out": samples(9, seed=2), "test": samples(9, seed=3)}
    with pytest.raises(InvalidWorkload, match=r"train\(model, data, run\)"):
        Workload(name="small", build=plain, objective=OBJECTIVE, **sets)

    def trainer(model: object, data: object, run: object) -> None: ...

    alone, both = (
        Workload(name="small", build=plain, objective=OBJECTIVE, trainer=trainer, recipe=recipe, **sets)
        for recipe in (None, RECIPE)
    )
    assert alone.training == OwnTraining(trainer=trainer)
    assert both.training == OwnTraining(trainer=trainer, precision="float32")


def test_another_fingerprint_than_the_recorded_one_is_refused_and_none_recorded_asks_for_none() -> None:
    one = dataclasses.replace(workload(), fingerprints={"tokenizer": "ab", "vocabulary": "cd"})
    check_fingerprints(one, {})
    for recorded in ({}, {"tokenizer": "ab"}, dict(one.fingerprints)):
        check_fingerprints(one, {FINGERPRINTS: recorded})
    for name, given in {"tokenizer": "ab", "scales": "none"}.items():
        with pytest.raises(InvalidWorkload, match=rf"{name}.*(\bef\b.*\b{given}\b|\b{given}\b.*\bef\b)"):
            check_fingerprints(one, {FINGERPRINTS: {name: "ef"}})
    with pytest.raises(InvalidWorkload, match="each a string"):
        dataclasses.replace(one, fingerprints={"tokenizer": 17})
