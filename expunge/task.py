"""A task from a workload and a file of weights, as the worker makes one from a claim, and its steps with somebody who looks on."""

from collections.abc import Callable, Generator
from pathlib import Path
from typing import TypeVar

import torch
from torch import nn

from unlearning.samples import SampleSet
from unlearning.task import Task
from unlearning.weights import file_sha256
from unlearning.workload import HeldOut, Workload
from worker.load import load_model

P = TypeVar("P")
T = TypeVar("T")


def device() -> torch.device:
    """Where models and data go: the GPU where there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def load_file(workload: Workload, path: Path) -> nn.Module:
    """The workload's model with the weights of a file. Raises WeightsMissing, WeightsDamaged."""
    return load_model(workload, path, file_sha256(path), device())


def make_task(
    workload: Workload, model: nn.Module, *, forget: SampleSet, remain: SampleSet, held_out: HeldOut, seed: int
) -> Task:
    """What a method is given, on the device of the model."""
    return Task(
        model=model,
        build=workload.build,
        objective=workload.objective,
        recipe=workload.recipe,
        forget=forget.to(device()),
        remain=remain.to(device()),
        guide=held_out.guide.to(device()),
        criterion=held_out.criterion.to(device()),
        seed=seed,
    )


def watched(steps: Generator[P, None, T], show: Callable[[P], None]) -> T:
    """Run steps to their end, showing each, and give what they return."""
    while True:
        try:
            show(next(steps))
        except StopIteration as end:
            result: T = end.value
            return result
