"""A task from a workload and a file of weights, as the worker makes one from a claim, and its steps with somebody who looks on."""

from collections.abc import Callable, Generator, Sequence
from pathlib import Path
from typing import TypeVar

import torch
from torch import nn

from expunge.errors import CannotTune
from expunge.operator.registration import method_object
from unlearning.data.samples import SampleSet, partition
from unlearning.data.workload import HeldOut, Workload, split_held_out
from unlearning.errors import UnlearningError
from unlearning.specs import parse
from unlearning.storage import file_sha256
from unlearning.task import Task
from unlearning.tuning import Found, Trial, against_oracle, by_criterion, oracle_of, search, validation
from worker.errors import WorkerError
from worker.inputs import load_model, load_workload

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


def tune(
    reference: str,
    *,
    allowed: Sequence[str],
    weights: Path,
    method: str,
    budget: int,
    share: float,
    oracle: bool,
    seed: int = 0,
    show: Callable[[Trial], None] = lambda trial: None,
) -> Found:
    """Search `method`'s parameters on a forget split of `share` of the training set, judged by the calibrated criterion or, with
    `oracle`, by a model retrained without the split. Raises CannotTune.
    """
    try:
        workload = load_workload(reference, allowed=allowed)
        if not weights.is_file():
            raise CannotTune(f"There is no weights file {weights}.")
        # One sample stands for a request, so that the rest is what would remain; the split to be forgotten is drawn from that.
        asked, remain = partition(workload.train, (1, len(workload.train) - 1), seed=seed)
        held_out = split_held_out(workload.held_out)
        original = load_file(workload, weights)
        task = make_task(workload, original, forget=asked, remain=remain, held_out=held_out, seed=seed)
        make = validation(task, size=max(1, round(share * len(remain))), seed=seed)
        judge = against_oracle(make(), oracle_of(make(), seed=seed)) if oracle else by_criterion(make())
        return watched(search(parse(method_object(method)), make, judge, budget=budget, seed=seed), show)
    except (UnlearningError, WorkerError) as error:
        raise CannotTune(str(error)) from error
