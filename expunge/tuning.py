"""Tune a method for a workload before anybody asks to be forgotten: the budgeted search on a part of its own training data."""

from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from expunge.errors import CannotTune
from expunge.registration import method_object
from unlearning.errors import UnlearningError
from unlearning.samples import partition
from unlearning.search import Found, Trial, against_oracle, by_criterion, oracle_of, search, validation
from unlearning.specs import parse
from unlearning.task import Task
from unlearning.weights import file_sha256
from unlearning.workload import split_held_out
from worker.errors import WorkerError
from worker.load import load_model
from worker.workloads import load_workload


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
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        held_out = split_held_out(workload.held_out)
        # One sample stands for a request, so that the rest is what would remain; the split to be forgotten is drawn from that.
        asked, remain = partition(workload.train, (1, len(workload.train) - 1), seed=seed)
        task = Task(
            model=load_model(workload, weights, file_sha256(weights), device),
            build=workload.build,
            objective=workload.objective,
            recipe=workload.recipe,
            forget=asked.to(device),
            remain=remain.to(device),
            guide=held_out.guide.to(device),
            criterion=held_out.criterion.to(device),
            seed=seed,
        )
        make = validation(task, size=max(1, round(share * len(remain))), seed=seed)
        judge = against_oracle(make(), oracle_of(make(), seed=seed)) if oracle else by_criterion(make())
        steps = search(parse(method_object(method)), make, judge, budget=budget, seed=seed)
        while True:
            try:
                show(next(steps))
            except StopIteration as end:
                found: Found = end.value
                return found
    except (UnlearningError, WorkerError) as error:
        raise CannotTune(str(error)) from error
