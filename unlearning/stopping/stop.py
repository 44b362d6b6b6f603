"""The calibrated stop: when has a method done enough, without a retrained model to compare with (docs/methods.md §4)."""

import copy
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from unlearning.stopping.criterion import Check, Criterion, check, matched
from unlearning.stopping.probe import lasting
from unlearning.task import Outcome, Progress, Steps, Task

_PATIENCE = 3
_SETTLED = 0.75
"""Share of an annealed schedule after which its states count: before it the rate is high, and accuracy is still to come back."""


def until_matched(
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
    """Take steps until the criterion is met, the utility is lost, or the budget is spent; leave the best state seen.

    The model as it was given is left only where every other state that counts has lost more than is allowed: a small forget set
    cannot be told from held-out data even then, and a method that was asked to forget must not do nothing.
    `step` is given its number, from 1, and the latest check.
    Ends with "utility" after three checks in a row beyond the allowed drop and not recovering, or at the first weight that is
    not finite. A method that `anneals` trains on remaining data as it goes and takes its whole schedule:
    it recovers from a drop, and only the last quarter's states count. Up to `repair_steps` follow, numbered on, for as long as a
    check finds more than half of the allowed drop used up.
    `first_step` and `total` place these steps within a longer run's progress; a repair that is begun adds to the total.
    """
    found = check(criterion, task.model)
    track = _Track(best=copy.deepcopy(task.model.state_dict()), best_check=found, found=found)
    task.state.keep(stop=track)
    try:
        while track.taken < _due(criterion, track, steps, repair_steps) and not track.ended:
            track.taken += 1
            metrics = step(track.taken, track.found)
            if not track.taken % criterion.stop.check_every or track.taken in (steps, steps + repair_steps):
                settled = not anneals or track.taken > _SETTLED * steps
                _judge(task, criterion, track, check(criterion, task.model), anneals=anneals, settled=settled)
                metrics = {**metrics, **_shown(track.found)}
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
        metrics=_shown(track.best_check),
    )


def _due(criterion: Criterion, track: "_Track", steps: int, repair_steps: int) -> int:
    """How many steps there are to take as things stand: those of a repair too, where more than half of the allowed drop is used."""
    return steps + repair_steps if track.found.drop > criterion.stop.allowed_drop / 2 else steps


@dataclass(slots=True, eq=False)
class _Track:
    """Where a run under the stop is; all of it is part of a checkpoint.

    best: the best state seen, with its check. untouched: whether that is still the model as it was given. found: the latest check.
    losing: checks in a row that lost utility. ended: why, once.
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


def _judge(task: Task, criterion: Criterion, track: _Track, found: Check, *, anneals: bool, settled: bool) -> None:
    """Keep the state if it is the best that counts so far, and say whether what was found ends the run."""
    better = _rank(criterion, found) < _rank(criterion, track.best_check)
    if settled and (better or (track.untouched and found.drop <= criterion.stop.allowed_drop)):
        track.best, track.best_check, track.untouched = copy.deepcopy(task.model.state_dict()), found, False
    losing = found.drop > criterion.stop.allowed_drop and found.drop >= track.found.drop
    track.losing, track.found = track.losing + 1 if losing else 0, found
    if not anneals and matched(criterion, found) and lasting(task, stop=criterion.stop):
        track.ended = "matched"
    elif (track.losing >= _PATIENCE and not anneals) or not _finite(task.model):
        track.ended = "utility"


def _rank(criterion: Criterion, found: Check) -> tuple[float, float]:
    """What "best" means: the utility within what is allowed; then the mismatch beyond the tolerance plus the share of the allowed
    drop that is used up, squared. A perfect match that costs the whole allowance is no better than one standard error more.
    """
    stop = criterion.stop
    used = found.drop / max(stop.allowed_drop, 1e-6)
    return max(0.0, used - 1), max(0.0, found.score - stop.tolerance) + used**2


def _shown(found: Check) -> dict[str, float]:
    return {"match_score": found.score, "match_direction": found.direction, "accuracy_drop": found.drop}


def _finite(model: nn.Module) -> bool:
    return all(bool(torch.isfinite(p).all()) for p in model.parameters())
