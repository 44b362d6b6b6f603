"""Search a method's parameters on training samples that need not be forgotten."""

from collections.abc import Callable, Sequence
from pathlib import Path

from expunge.errors import CannotTune
from expunge.operator.workloads import as_owners_error, load_file, make_task
from unlearning.data.samples import partition
from unlearning.data.workload import split_held_out
from unlearning.errors import UnlearningError
from unlearning.specs import method_object, parse
from unlearning.task import run_to_completion
from unlearning.tuning import (
    SearchResult,
    Trial,
    judge_by_criterion,
    judge_by_retrained,
    retrain_without_split,
    search,
    validation_task,
)
from worker.failures import WorkerError
from worker.inputs import load_workload


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
) -> SearchResult:
    """Search `method`'s parameters on a forget set of `share` of the training set.

    method: a name or JSON. budget: how many specs to try. oracle: judge each result by a model retrained without the forget set
    instead of by the calibrated criterion. show: called after each trial. Raises CannotTune with the reason.
    """
    try:
        workload = load_workload(reference, allowed=allowed)
        if not weights.is_file():
            raise CannotTune(f"There is no weights file {weights}.")
        # A task needs a forget set. One sample stands for it; the search draws its own forget sets from the rest.
        requested, remain = partition(workload.train, (1, len(workload.train) - 1), seed=seed)
        held_out = split_held_out(workload.held_out)
        original = load_file(workload, weights)
        task = make_task(workload, original, forget=requested, remain=remain, held_out=held_out, seed=seed)
        make = validation_task(task, size=max(1, round(share * len(remain))), seed=seed)
        given = parse(method_object(method))
        with as_owners_error(CannotTune, workload, owned=allowed):
            judge = (
                judge_by_retrained(make(), retrain_without_split(make(), seed=seed))
                if oracle
                else judge_by_criterion(make())
            )
            return run_to_completion(search(given, make, judge, budget=budget, seed=seed), show)
    except (UnlearningError, WorkerError) as error:
        raise CannotTune(str(error)) from error
