"""The calibrated stop: end a method once it has forgotten enough, judged without a retrained model (docs/methods.md §4)."""

import copy
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from torch import Tensor

from unlearning.networks import is_finite
from unlearning.stopping.criterion import Check, Criterion, check, matched
from unlearning.stopping.probe import relearns_slowly
from unlearning.task import Outcome, Progress, Steps, Task

_PATIENCE = 3
"""Checks in a row beyond the allowed drop that end a run."""
_SETTLED = 0.75
"""Share of an annealed schedule after which its states count: before it the rate is high, and accuracy still recovers."""


def run_with_stop(
    task: Task,
    criterion: Criterion,
    step: Callable[[int, Check], Mapping[str, float]],
    *,
    steps: int,
    repair_steps: int = 0,
    anneals: bool = False,
    first_step: int = 0,
    total: int | None = None,
    setup_seconds: Mapping[str, float] | None = None,
) -> Steps:
    """Take steps until the criterion is met, the utility is lost, or all steps are taken; leave the best state seen in the model.

    step: called with its number, from 1, and the latest check; returns figures to show.
    repair_steps: at most so many more steps follow, numbered on, while a check finds more than half of the allowed drop used up.
    anneals: whether the method trains on remaining data under a falling rate. Such a method recovers from a drop in accuracy, so it
        takes its whole schedule, and only the states of the last quarter count.
    first_step, total: where these steps stand in the progress of a longer run. A repair that begins adds to the total.

    The original state is left only if every other state that counts lost more merit than is allowed: a small forget set often
    does not differ from held-out data even before unlearning, and a method that was asked to forget must not do nothing.
    The outcome is "utility" after three checks in a row beyond the allowed drop and not recovering, or if a weight is not finite.
    """
    first = check(criterion, task.model)
    track = _Track(best=copy.deepcopy(task.model.state_dict()), best_check=first, found=first)
    task.state.register(stop=track)
    try:
        while track.taken < _planned_steps(criterion, track, steps, repair_steps) and not track.ended:
            track.taken += 1
            metrics = step(track.taken, track.found)
            if not track.taken % criterion.stop.check_every or track.taken in (steps, steps + repair_steps):
                settled = not anneals or track.taken > _SETTLED * steps
                _record_check(task, criterion, track, check(criterion, task.model), anneals=anneals, settled=settled)
                metrics = {**metrics, **_metrics(track.found)}
            more = repair_steps if track.taken > steps else 0
            yield Progress(
                phase="unlearn", step=first_step + track.taken, total=(total or steps) + more, metrics=metrics
            )
    finally:
        task.model.load_state_dict(track.best)
    return Outcome(
        steps=first_step + track.taken,
        stopped_because=track.ended or "budget",
        setup_seconds=setup_seconds or {},
        metrics=_metrics(track.best_check),
    )


@dataclass(slots=True, eq=False)
class _Track:
    """The position of a run under the stop; all of it is part of a training checkpoint, under these names.

    best: the best state seen, with its check. untouched: whether that is still the original state. found: the latest check.
    taken: steps taken. losing: checks in a row that lost utility. ended: why the run has ended, or "".
    """

    best: dict[str, Tensor]
    best_check: Check
    found: Check
    untouched: bool = True
    taken: int = 0
    losing: int = 0
    ended: str = ""

    def state_dict(self) -> dict[str, Any]:
        return {
            **{name: getattr(self, name) for name in ("best", "untouched", "taken", "losing", "ended")},
            **{name: asdict(getattr(self, name)) for name in ("best_check", "found")},
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        for name, value in state_dict.items():
            setattr(self, name, Check(**value) if name in ("best_check", "found") else value)


def _planned_steps(criterion: Criterion, track: _Track, steps: int, repair_steps: int) -> int:
    """Return how many steps to take as planned now: a repair is due while more than half of the allowed drop is used up."""
    return steps + repair_steps if track.found.drop > criterion.stop.allowed_drop / 2 else steps


def _record_check(
    task: Task, criterion: Criterion, track: _Track, latest: Check, *, anneals: bool, settled: bool
) -> None:
    """Save the state if it counts (`settled`) and is the best so far, and set `track.ended` if the check ends the run."""
    finite = is_finite(task.model)
    better = _rank(criterion, latest) < _rank(criterion, track.best_check)
    if finite and settled and (better or (track.untouched and latest.drop <= criterion.stop.allowed_drop)):
        track.best, track.best_check, track.untouched = copy.deepcopy(task.model.state_dict()), latest, False
    losing = latest.drop > criterion.stop.allowed_drop and latest.drop >= track.found.drop
    track.losing, track.found = track.losing + 1 if losing else 0, latest
    if not finite or (track.losing >= _PATIENCE and not anneals):
        track.ended = "utility"
    elif not anneals and matched(criterion, latest) and relearns_slowly(task, stop=criterion.stop):
        track.ended = "matched"


def _rank(criterion: Criterion, latest: Check) -> tuple[float, float]:
    """Return the key by which states are compared, the lowest being the best.

    First, the drop beyond the allowed one. Then, the mismatch beyond the tolerance plus the squared share of the allowed drop
    that is used up: a perfect match that costs the whole allowance is no better than one standard error more of mismatch.
    """
    stop = criterion.stop
    used = latest.drop / max(stop.allowed_drop, 1e-6)
    return max(0.0, used - 1), max(0.0, latest.score - stop.tolerance) + used**2


def _metrics(latest: Check) -> dict[str, float]:
    return {"match_score": latest.score, "match_direction": latest.direction, "accuracy_drop": latest.drop}
