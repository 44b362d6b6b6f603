"""Workloads: what a user's factory returns, everything that Expunge must know about a model and its data."""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import TypeAlias

import torch
from torch import nn

from unlearning.data.batches import all_tensors
from unlearning.data.objectives.objective import Objective, fitted
from unlearning.data.samples import SampleSet, partition
from unlearning.errors import InvalidWorkload
from unlearning.sharding import Blocks
from unlearning.specs.training import Precision, Recipe
from unlearning.training.run import TrainingRun

Trainer: TypeAlias = Callable[[nn.Module, SampleSet, TrainingRun], object]
"""The owner's own training function: it trains the given, newly built model in place on the samples, and reports to the run."""


FINGERPRINTS = "fingerprints"
"""The entry of a model's details, and of the note beside its weights, that has its workload's fingerprints."""


@dataclass(frozen=True, kw_only=True, slots=True)
class OwnTraining:
    """How a model is trained by its owner's function.

    precision: of the methods' own steps, as in a recipe. share: of the usual epochs (`TrainingRun.share`). patience: seconds
    without a report after which the training is given up; None where the worker's watchdog sees to that.
    """

    trainer: Trainer
    precision: Precision = "auto"
    share: float = 1.0
    patience: float | None = None


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Workload:
    """A model with its data sets, its objective, and how it is trained.

    build: returns the architecture with newly initialised weights. train: D. held_out: D_v, never trained on. test: D_t, never used
    for any decision. objective: what the model is trained for. recipe: how Expunge trains it. trainer: the function by which the
    owner trains it, in place of the recipe; a recipe beside it gives methods their precision alone.
    adapters: the name of the adapter that learned from each training sample, by the sample's ID, where each learned from its own
    samples alone; None where all that trains learned from all samples.
    sharded: on several processes each keeps a part of the parameters, for a model that does not fit one device
    (`unlearning.sharding`): True, or the classes of the modules that are gathered one at a time.
    fingerprints: digests, by a name, of what the model was trained with and does not come back with its weights, such as
    {"tokenizer": SHA-256}. They are recorded with the model, and whatever works with it refuses others (`check_fingerprints`).
    The targets are converted (`Objective.convert_targets`), and the objective gets the held-out ones (`Objective.fit`).
    Raises InvalidWorkload if it has neither recipe nor trainer, a sample occurs in two sets, a set is empty, `held_out` has fewer
    than three samples, `adapters` lacks a sample, `sharded` is with what cannot be done in parts, a stream is with what draws at
    random, `fingerprints` has something other than texts, or the targets do not suit the objective.
    """

    name: str
    build: Callable[[], nn.Module]
    train: SampleSet
    held_out: SampleSet
    test: SampleSet
    objective: Objective
    recipe: Recipe | None = None
    trainer: Trainer | None = None
    adapters: Mapping[str, str] | None = None
    sharded: Blocks = False
    fingerprints: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.recipe is None and self.trainer is None:
            raise InvalidWorkload(
                f"Workload {self.name!r} does not say how its model is trained: give it a `recipe`, or a `trainer`, a function "
                "train(model, data, run)."
            )
        _check_call(self.build, "build", "build()", count=0)
        if self.trainer is not None:
            _check_call(self.trainer, "trainer", "train(model, data, run)", count=3)
        for part in ("train", "held_out", "test"):
            if not isinstance(given := getattr(self, part), SampleSet):
                raise InvalidWorkload(f"`{part}` is a {type(given).__name__}; make a SampleSet or a StoredSet of it.")
        sets = (set(self.train.ids), set(self.held_out.ids), set(self.test.ids))
        if len(set.union(*sets)) != sum(map(len, sets)):
            raise InvalidWorkload(
                f"Workload {self.name!r}: the train, held-out and test sets share samples; they must be disjoint."
            )
        if min(map(len, sets)) == 0 or len(self.held_out) < 3:
            raise InvalidWorkload(
                f"Workload {self.name!r}: train, held-out and test sets must not be empty (held-out: 3 or more)."
            )
        self._check_adapters()
        self._check_sharded()
        self._check_preparation()
        if not all(isinstance(text, str) for pair in self.fingerprints.items() for text in pair):
            raise InvalidWorkload(f"Workload {self.name!r}: `fingerprints` has names and digests, each a string.")
        for part in ("train", "held_out", "test"):
            samples: SampleSet = getattr(self, part)
            convert = partial(self.objective.convert_targets, name=part.replace("_", "-"))
            object.__setattr__(self, part, samples.convert_targets(convert))
        if self.objective.fit is not None:  # which reads the targets of a stored set, unless they are given
            object.__setattr__(self, "objective", fitted(self.objective, self.held_out.targets))

    @property
    def private_ids(self) -> tuple[str, ...]:
        """The IDs of all samples and subjects, which no message may quote."""
        sets = (self.train, self.held_out, self.test)
        return tuple(dict.fromkeys(name for each in sets for name in (*each.ids, *(each.subjects or ()))))

    def _check_adapters(self) -> None:
        if self.adapters is None:
            return
        for place, sample in enumerate(self.train.ids):
            name = self.adapters.get(sample)
            if not isinstance(name, str) or not name or "." in name:
                raise InvalidWorkload(
                    f"Workload {self.name!r} names no adapter for the training sample at position {place}: give each sample's ID a "
                    "name without dots, as in the names of the adapter's parameters."
                )

    def _check_sharded(self) -> None:
        if not self.sharded:
            return
        classes = self.sharded if isinstance(self.sharded, tuple | list) else ()
        if self.sharded is not True and not (classes and all(isinstance(each, type) for each in classes)):
            raise InvalidWorkload(f"Workload {self.name!r}: `sharded` is True, or a tuple of the classes of blocks.")
        if self.trainer is not None:
            raise InvalidWorkload(
                f"Workload {self.name!r} is sharded and has a `trainer`. A trainer gets a whole model. Give the workload a recipe "
                "alone, or leave `sharded` out."
            )
        assert self.recipe is not None
        if self.recipe.readiness or self.recipe.privacy:
            raise InvalidWorkload(
                f"Workload {self.name!r} is sharded, and its recipe has Ready2Unlearn or DP-SGD, which need the whole "
                "model in each process. Leave one of the two out."
            )

    def _check_preparation(self) -> None:
        """Refuse what draws single batches of a stream: it would fail in the middle of a training."""
        recipe = None if self.trainer is not None else self.recipe
        if recipe is not None and (recipe.readiness or recipe.privacy) and not self.train.random_access:
            raise InvalidWorkload(
                f"The training set of workload {self.name!r} is a stream, and its recipe has Ready2Unlearn or DP-SGD, which draw "
                "single batches at random. Leave them out of the recipe, or write the stream to files first."
            )

    @property
    def training(self) -> Recipe | OwnTraining:
        """How the model is trained: by the trainer if there is one, else by the recipe."""
        if self.trainer is not None:
            return OwnTraining(trainer=self.trainer, precision="auto" if self.recipe is None else self.recipe.precision)
        assert self.recipe is not None
        return self.recipe

    @property
    def fitted_to(self) -> str | None:
        """The set to which the recipe's loss was fitted (`Objective.fit`), for records. None for other losses, or a trainer."""
        return "held_out" if self.objective.fitted and self.trainer is None else None

    @property
    def identity(self) -> dict[str, object]:
        """What training depends on that its settings and IDs do not show, as JSON: `fitted_to` and the fingerprints, if any."""
        found = {"fitted_to": self.fitted_to, FINGERPRINTS: dict(self.fingerprints)}
        return {name: value for name, value in found.items() if value}


def _check_call(function: object, name: str, form: str, *, count: int) -> None:
    """Raise InvalidWorkload unless a workload's field `name` is a function that can be called with `count` arguments."""
    if isinstance(function, nn.Module) or not callable(function):
        raise InvalidWorkload(f"`{name}` is a {type(function).__name__}; give the function, which is called as {form}.")
    try:
        taken = inspect.signature(function)
    except (TypeError, ValueError):  # some functions of C do not say what they take
        return
    try:
        taken.bind(*range(count))
    except TypeError as error:
        raise InvalidWorkload(f"`{name}` cannot be called as {form}, because it takes {taken}: {error}.") from None


def check_fingerprints(workload: Workload, details: Mapping[str, object]) -> None:
    """Raise InvalidWorkload if a fingerprint is not the one recorded in a model's details, if there is one."""
    recorded = details.get(FINGERPRINTS)
    for name, digest in recorded.items() if isinstance(recorded, Mapping) else ():
        given = workload.fingerprints.get(name)
        if given != digest:
            now = f"the workload's is {given}" if given else "the workload has none"
            raise InvalidWorkload(
                f"Workload {workload.name!r} has another {name} than the model was trained with: the fingerprint {digest} was "
                f"recorded with the model, and {now}. Put that {name} back, or train with this one and register the model anew."
            )


def check_data(workload: Workload) -> None:
    """Read what of the workload's sets is not known yet: the labels, and with them each sample, once.

    Raises InvalidWorkload, with a position, for a sample that cannot be read or has numbers that are not finite, and as
    `Objective.convert_targets` does. A stored set whose targets are given is not read.
    """
    for name, samples in (("train", workload.train), ("held-out", workload.held_out), ("test", workload.test)):
        if samples.stored:
            samples.targets  # noqa: B018  (it reads them)
            continue
        for place, tensor in all_tensors(samples.batch):
            rows = torch.isfinite(tensor).reshape(len(tensor), -1).all(1)
            if not bool(rows.all()):
                where = int((~rows).nonzero()[0])
                raise InvalidWorkload(f"The {name} set has {place} at position {where} that are not finite numbers.")


def check_targets(samples: SampleSet, objective: Objective, *, name: str) -> None:
    """Raise InvalidWorkload unless the targets are as `Objective.convert_targets` returns them.

    Those of a stored set are converted when they are read; without classes nothing else needs them, so they are not read for this.
    """
    if samples.stored and objective.classes is None:
        return
    converted = objective.convert_targets(samples.targets, name=name)
    if samples.targets.shape != converted.shape or samples.targets.dtype != converted.dtype:
        raise InvalidWorkload(
            f"The {name} set's targets, {tuple(samples.targets.shape)} {samples.targets.dtype}, must be "
            f"{tuple(converted.shape)} {converted.dtype}; a Workload converts them, or `Objective.convert_targets` does."
        )


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
