"""Workloads: what a user's factory returns, everything that Expunge must know about a model and its data."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from unlearning.data.objectives import Objective
from unlearning.data.samples import SampleSet, partition
from unlearning.errors import InvalidWorkload, UnsupportedWorkload
from unlearning.specs.training import Recipe


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Workload:
    """A model with its data sets, objective and recipe.

    build: returns the architecture with newly initialised weights. train: D. held_out: D_v, never trained on. test: D_t, never used
    for any decision. objective: what the model is trained for. recipe: how it is trained.
    With classes the targets become labels, (n,) int64 (`class_labels`).
    Raises InvalidWorkload if a sample occurs in two sets, a set is empty, `held_out` has fewer than three samples, or labels lie
    outside the classes, and UnsupportedWorkload for targets that are no labels.
    """

    name: str
    build: Callable[[], nn.Module]
    train: SampleSet
    held_out: SampleSet
    test: SampleSet
    objective: Objective
    recipe: Recipe

    def __post_init__(self) -> None:
        sets = (set(self.train.ids), set(self.held_out.ids), set(self.test.ids))
        if len(set.union(*sets)) != sum(map(len, sets)):
            raise InvalidWorkload(
                f"Workload {self.name!r}: the train, held-out and test sets share samples; they must be disjoint."
            )
        if min(map(len, sets)) == 0 or len(self.held_out) < 3:
            raise InvalidWorkload(
                f"Workload {self.name!r}: train, held-out and test sets must not be empty (held-out: 3 or more)."
            )
        if self.objective.classes is not None:
            for field in ("train", "held_out", "test"):
                samples: SampleSet = getattr(self, field)
                convert = partial(class_labels, classes=self.objective.classes, name=field.replace("_", "-"))
                object.__setattr__(self, field, samples.convert_targets(convert))


def class_labels(targets: Tensor, *, classes: int, name: str) -> Tensor:
    """Return targets as labels, (n,) int64 from 0 to classes − 1. name: of the set, for the message.

    Integers and booleans of any width, whole floats, columns (n, 1) and one-hot rows (n, classes) are converted. Raises
    UnsupportedWorkload for anything else of another shape, and InvalidWorkload for a label outside the classes.
    """
    shape, given = tuple(targets.shape), targets
    if given.dim() == 2 and given.shape[1] == 1:
        given = given.squeeze(1)
    elif given.dim() == 2 and given.shape[1] == classes and _is_one_hot(given):
        given = given.float().argmax(1)
    if (
        given.dim() != 1
        or given.is_complex()
        or (given.is_floating_point() and not bool((given == given.long()).all()))
    ):
        raise UnsupportedWorkload(
            f"The {name} set's targets, {shape} {targets.dtype}, are no labels of {classes} classes. One label a sample is "
            "supported, (n,) integers. Models with several labels a sample, with a number as their target (regression) or with a "
            "label a token (language models) cannot be audited yet."
        )
    labels = given.long()
    low, high = (int(end) for end in labels.aminmax())
    if low == -100:
        raise InvalidWorkload(
            f"{int((labels == low).sum())} samples of the {name} set have the label -100, which training ignores. Leave them out."
        )
    if low < 0 or high >= classes:
        hint = " Subtract 1." if (low, high) == (1, classes) else ""
        raise InvalidWorkload(
            f"The {name} set has labels from {low} to {high}; {classes} classes have the labels 0 to {classes - 1}.{hint}"
        )
    return labels


def check_labels(samples: SampleSet, *, classes: int | None, name: str) -> None:
    """Raise InvalidWorkload unless the targets are labels as `class_labels` makes them; without classes any target will do."""
    if classes is None:
        return
    class_labels(samples.targets, classes=classes, name=name)
    if samples.targets.dim() != 1 or samples.targets.dtype != torch.int64:
        shape = tuple(samples.targets.shape)
        raise InvalidWorkload(
            f"The {name} set's targets, {shape} {samples.targets.dtype}, must be labels, (n,) int64; a Workload converts them, or "
            "`class_labels` does."
        )


def _is_one_hot(targets: Tensor) -> bool:
    return bool(((targets == 0) | (targets == 1)).all()) and bool((targets.sum(1) == 1).all())


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class HeldOut:
    """D_v, split once, so that nothing is evaluated on data that something else was fitted to.

    guide: trains LTU's guide attacks. criterion: what the calibrated stop compares with. audit: for the audit alone.
    """

    guide: SampleSet
    criterion: SampleSet
    audit: SampleSet


def split_held_out(held_out: SampleSet, *, seed: int = 0) -> HeldOut:
    """Split D_v at random into disjoint parts: a quarter for the guide attacks, a quarter for the criterion, half for the audit."""
    quarter = max(1, len(held_out) // 4)
    guide, criterion, audit = partition(held_out, (quarter, quarter, len(held_out) - 2 * quarter), seed=seed)
    return HeldOut(guide=guide, criterion=criterion, audit=audit)
