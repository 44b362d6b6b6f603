"""A small real workload: a linear network on scikit-learn's 8 x 8 digits. Seconds to train, enough to forget."""

import importlib.util
import os
import signal
import threading
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.utils.data import TensorDataset

from tests.unlearning.trainers import train_by_adamw
from unlearning.data.objectives import classification, regression
from unlearning.data.samples import SampleSet, joined, partition
from unlearning.data.stored import StoredSet
from unlearning.data.workload import Workload
from unlearning.specs.training import Recipe
from unlearning.training.run import TrainingRun

NOISE = 4.0
"""Of pixels from 0 to 16: enough that a network remembers its training images."""


FEW = {"train": 200, "held_out": 150, "test": 100}
"""Samples of the smallest workload."""


def network() -> nn.Sequential:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10))


@cache
def read_digits() -> tuple[torch.Tensor, torch.Tensor]:
    """Read scikit-learn's digits, (1797, 64) and (1797,), without importing it, for which each process would wait."""
    found = importlib.util.find_spec("sklearn")
    assert found is not None
    assert found.origin is not None
    rows = torch.from_numpy(np.loadtxt(Path(found.origin).parent / "datasets/data/digits.csv.gz", delimiter=","))
    return rows[:, :-1].float(), rows[:, -1].long()


def workload() -> Workload:
    clean, labels = read_digits()
    noise = NOISE * torch.randn(clean.shape, generator=torch.Generator().manual_seed(0))
    samples = SampleSet(
        ids=tuple(f"image-{i}" for i in range(len(clean))),
        inputs=(clean + noise) / 16,
        targets=labels,
    )
    train, held_out, test = partition(samples, (800, 500, 400), seed=0)
    return Workload(
        name="tiny-digits",
        build=network,
        train=train,
        held_out=held_out,
        test=test,
        objective=classification(10),
        recipe=Recipe(epochs=20, batch_size=64, learning_rate=0.1),
    )


def of_few_samples() -> Workload:
    """It has two hundred training samples: a job of the soak benchmark takes a second."""
    made = workload()
    parts = {name: getattr(made, name).take(torch.arange(size)) for name, size in FEW.items()}
    return replace(made, name="few-digits", **parts)


COPIED = 60
"""Images of which `copied` has a near-copy too, the first ones."""


def copied() -> Workload:
    """Its training set has near-copies of the first images too, as of photographs that were saved twice."""
    made = workload()
    first = made.train.take(torch.arange(COPIED))
    noise = 0.02 * torch.randn(first.inputs.shape, generator=torch.Generator().manual_seed(1))
    copies = replace(first, ids=tuple(f"copy-{name}" for name in first.ids), inputs=first.inputs + noise)
    return replace(made, train=joined(made.train, copies))


def copied_twice() -> Workload:
    """Its first training image is there three times."""
    made = workload()
    first = made.train.take(torch.zeros(1, dtype=torch.int64))
    copies = [replace(first, ids=(name,)) for name in ("second", "third")]
    return replace(made, train=joined(made.train, *copies))


def with_integer_ids() -> Workload:
    """Its training samples have the keys of a database: integers from 5000."""
    made = workload()
    keys = tuple(range(5000, 5000 + len(made.train)))
    return replace(made, train=replace(made.train, ids=keys))  # type: ignore[arg-type]  # a factory of a user is not typed


def headed() -> nn.Sequential:
    """A frozen layer that never learned, and a head that is all that training moves."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = nn.Sequential(nn.Flatten(), nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10))
    network[1].requires_grad_(False)
    return network


def with_a_head() -> Workload:
    return replace(workload(), build=headed)


SLICES = (400, 200, 200)
"""Training samples of each slice."""


def in_slices() -> Workload:
    """It is learned in three slices."""
    made = workload()
    numbers = tuple(number for number, size in enumerate(SLICES) for _ in range(size))
    recipe = replace(made.recipe, epochs=8)  # type: ignore[type-var]  # it has one
    return replace(made, train=replace(made.train, slices=numbers), recipe=recipe)


def numbers_in_slices() -> Workload:
    """A regression of the digit's number."""
    made, objective = in_slices(), regression()
    sets = {
        name: replace(getattr(made, name), targets=getattr(made, name).targets.float())
        for name in ("train", "held_out", "test")
    }
    recipe = replace(made.recipe, epochs=1)  # type: ignore[type-var]  # it has one
    return replace(made, build=lambda: network().append(nn.Linear(10, 1)), objective=objective, recipe=recipe, **sets)


def read_when_needed() -> Workload:
    """Its samples are read from a data set, by two processes that each epoch starts anew."""
    made = workload()
    sets = {
        name: StoredSet.of(TensorDataset(part.inputs, part.targets), ids=part.ids, num_workers=2)
        for name, part in (("train", made.train), ("held_out", made.held_out), ("test", made.test))
    }
    recipe = replace(made.recipe, epochs=4)  # type: ignore[type-var]  # it has one
    return replace(made, name="read-digits", recipe=recipe, **sets)


class Shards:
    """The samples of a set, in the same order each time they are iterated."""

    def __init__(self, samples: SampleSet) -> None:
        self.samples = samples

    def __iter__(self) -> Iterator[dict[str, object]]:
        for name, image, label in zip(self.samples.ids, *self.samples.batch, strict=True):
            yield {"id": name, "image": image, "label": label}


def as_a_stream() -> Workload:
    """Its training set is a stream."""
    made = workload()
    train = StoredSet.of_stream(Shards(made.train), key="id", targets="label", inputs=lambda item: item["image"])
    return replace(made, train=train)


class Once(torch.autograd.Function):
    """The identity, with a gradient that cannot be differentiated, like that of many kernels."""

    @staticmethod
    def forward(ctx: object, inputs: torch.Tensor) -> torch.Tensor:
        return inputs.clone()

    @staticmethod
    @torch.autograd.function.once_differentiable  # type: ignore[untyped-decorator]  # torch's own
    def backward(ctx: object, gradient: torch.Tensor) -> torch.Tensor:
        return gradient


class OnceDifferentiable(nn.Module):
    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = Once.apply(inputs)  # type: ignore[no-untyped-call]  # torch's own
        return out


def without_second_derivative() -> Workload:
    made = workload()
    return replace(made, build=lambda: network().append(OnceDifferentiable()), recipe=replace(made.recipe, epochs=1))


EPOCHS, STEPS_PER_EPOCH = 4, 8
"""Of the trainer."""


def hook(step: int, run: TrainingRun) -> None:
    """A test puts its own in place: the trainer calls it before each of its steps."""


def train(model: nn.Module, data: SampleSet, run: TrainingRun) -> None:
    """The owner's own function."""
    train_by_adamw(
        model, data, run, epochs=EPOCHS, batch_size=100, rate=3e-3, before_step=lambda step, run: hook(step, run)
    )


def with_trainer() -> Workload:
    """Trained by a function of its own, and by no recipe."""
    return replace(workload(), recipe=None, trainer=train)


def with_raising_trainer() -> Workload:
    """Its trainer raises in the middle, and names a sample."""

    def train_a_little(model: nn.Module, data: SampleSet, run: TrainingRun) -> None:
        run.report(1, 2)
        raise KeyError(f"{data.ids[0]} has no caption")

    return replace(workload(), recipe=None, trainer=train_a_little)


def with_idle_trainer() -> Workload:
    """Its trainer trains nothing."""
    return replace(workload(), recipe=None, trainer=lambda model, data, run: run.report(1, 1))


def on_a_random_base() -> Workload:
    """Its first layer is drawn at random by `build`, and frozen: only the last layer trains."""

    def build() -> nn.Module:
        model = network()
        model[1].requires_grad_(False)
        return model

    made = workload()
    return replace(made, build=build, recipe=replace(made.recipe, epochs=2))


def diverging() -> Workload:
    """Its training leaves the finite numbers."""
    made = workload()
    return replace(made, recipe=replace(made.recipe, epochs=4, learning_rate=1e30))


def broken() -> Workload:
    raise FileNotFoundError("no data here")


def endless() -> Workload:
    """Its factory does not return, and so no training of it ends by itself."""
    threading.Event().wait()
    raise AssertionError


def number() -> int:
    return 1


class Mortal(nn.Module):
    """Passes its input on, and kills its process, if that is the second rank and MORTAL names a file: once, in training."""

    passes = 0

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        if self.training and os.environ.get("RANK") == "1":
            type(self).passes += 1
            if type(self).passes == 10 and (sign := Path(os.environ.get(MORTAL, ""))).is_file():
                sign.unlink()
                os.kill(os.getpid(), signal.SIGKILL)
        return inputs


MORTAL = "EXPUNGE_TEST_MORTAL"


def on_ranks() -> Workload:
    made = workload()
    recipe = replace(made.recipe, epochs=2, precision="float32")
    return replace(made, build=lambda: network().append(Mortal()), recipe=recipe)


def sharded_on_ranks() -> Workload:
    return replace(on_ranks(), sharded=(nn.Linear,))
