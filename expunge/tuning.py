"""Tune a method for a workload before anybody asks to be forgotten: the budgeted search on a part of its own training data."""

from collections.abc import Callable, Sequence
from pathlib import Path

from expunge.errors import CannotTune
from expunge.registration import method_object
from expunge.task import load_file, make_task, watched
from unlearning.errors import UnlearningError
from unlearning.samples import partition
from unlearning.search import Found, Trial, against_oracle, by_criterion, oracle_of, search, validation
from unlearning.specs import parse
from unlearning.workload import split_held_out
from worker.errors import WorkerError
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
