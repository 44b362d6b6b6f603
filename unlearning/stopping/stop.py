"""The calibrated stop: end a method once it has forgotten enough, judged without a retrained model (docs/methods.md §4).

Its relearn probe tells a set that only looks forgotten: one that is relearned at once is still known [ours].
"""

import copy
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from unlearning import ranks
from unlearning.data.batches import Batch
from unlearning.data.near_copies import distinct_places, take_places
from unlearning.data.objectives import Objective
from unlearning.data.samples import SampleSet
from unlearning.gradients import trainable
from unlearning.hardware import in_float32
from unlearning.networks import copy_network, is_finite
from unlearning.specs import Stop
from unlearning.steps import Outcome, Progress, Steps
from unlearning.stopping.criterion import Check, Criterion, check, matched
from unlearning.task import Task

_PATIENCE = 3
"""Checks in a row beyond the allowed drop that end a run."""
_SETTLED = 0.75
"""Share of an annealed schedule after which its states count: before it the rate is high, and accuracy still recovers."""
_LOWER, _LEAST_FACTOR = 0.25, 0.01
"""What a learning rate that costs too much merit is multiplied by each time, and the least factor in all [ours]."""


@dataclass(slots=True, eq=False)
class Rate:
    """The factor of a method's learning rate, a part of its training checkpoint. `run_with_stop` lowers it."""

    factor: float = 1.0

    def state_dict(self) -> dict[str, Any]:
        """Return the factor."""
        return {"factor": self.factor}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue at a saved factor."""
        self.factor = state_dict["factor"]


class Original(NamedTuple):
    """The original's state and its check: what the stop compares with, and leaves where no other state keeps the utility."""

    state: dict[str, Tensor]
    check: Check


def original_of(task: Task, criterion: Criterion) -> Original:
    """Copy the state of a model that no step has moved yet, and check it."""
    return Original(copy.deepcopy(task.model.state_dict()), check(criterion, task.model))


def run_with_stop(
    task: Task,
    criterion: Criterion,
    step: Callable[[int, Check], Mapping[str, float]],
    *,
    steps: int,
    repair_steps: int = 0,
    anneals: bool = False,
    original: Original | None = None,
    first_step: int = 0,
    total: int | None = None,
    rate: Rate | None = None,
) -> Steps:
    """Take steps until the criterion is met, the utility is lost, or all steps are taken; leave the best state seen in the model.

    step: called with its number, from 1, and the latest check; returns figures to show.
    repair_steps: at most so many more steps follow, numbered on, while a check finds more than half of the allowed drop used up.
    anneals: whether the method trains on remaining data under a falling rate. Such a method recovers from a drop in accuracy, so it
        takes its whole schedule, and only the states of the last quarter count.
    original: by default the model as it is now. A method that has moved it already gives the one from before, which is then a part
        of the training checkpoint; the model as it is now counts too if no step follows.
    first_step, total: where these steps stand in the progress of a longer run. A repair that begins adds to the total.
    rate: `step` multiplies its learning rate by the factor. Where every state lost too much merit, it is lowered, and all steps are
        taken again from the original, numbered from 1: a rate made for cross-entropy wrecks some regressions.

    The original state is left only if every other state that counts lost more merit than is allowed: a small forget set often
    does not differ from held-out data even before unlearning, and a method that was asked to forget must not do nothing.
    The outcome is "utility" if the original state is left, after three checks in a row beyond the allowed drop and not recovering,
    or if a weight is not finite.
    """
    moved = original is not None
    original = original or original_of(task, criterion)
    track = _Track(best=original.state, best_check=original.check, found=original.check)
    if moved:
        _record_check(task, criterion, track, check(criterion, task.model), anneals=anneals, settled=not steps)
    task.state.register(stop=track)
    try:
        while _step_follows(criterion, track, steps, repair_steps) or _begins_again(task, track, rate):
            track.taken += 1
            metrics = step(track.taken, track.found)
            if not track.taken % criterion.stop.check_every or track.taken in (steps, steps + repair_steps):
                settled = not anneals or track.taken > _SETTLED * steps
                _record_check(task, criterion, track, check(criterion, task.model), anneals=anneals, settled=settled)
                metrics = {**metrics, **_metrics(track.found)}
            more = repair_steps if track.taken > steps else 0
            yield Progress(
                phase="unlearn",
                step=first_step + track.before + track.taken,
                total=track.before + (total or steps) + more,
                metrics=metrics,
            )
    finally:
        task.model.load_state_dict(track.best)
    return Outcome(
        steps=first_step + track.before + track.taken,
        stopped_because=track.ended or ("utility" if track.untouched else "budget"),
        metrics=_metrics(track.best_check),
    )


@dataclass(slots=True, eq=False)
class _Track:
    """The position of a run under the stop; all of it is part of a training checkpoint, under these names.

    best: the best state seen, with its check. untouched: whether that is still the original state. found: the latest check.
    taken: steps taken at the present rate. before: steps taken at higher ones. losing: checks in a row that lost utility. ended:
        why the run has ended, or "".
    """

    best: dict[str, Tensor]
    best_check: Check
    found: Check
    untouched: bool = True
    taken: int = 0
    before: int = 0
    losing: int = 0
    ended: str = ""

    def state_dict(self) -> dict[str, Any]:
        return {
            **{name: getattr(self, name) for name in ("best", "untouched", "taken", "before", "losing", "ended")},
            **{name: asdict(getattr(self, name)) for name in ("best_check", "found")},
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        for name, value in state_dict.items():
            setattr(self, name, Check(**value) if name in ("best_check", "found") else value)


def _step_follows(criterion: Criterion, track: _Track, steps: int, repair_steps: int) -> bool:
    """Return whether a step follows at the present rate: a repair is due while more than half of the allowed drop is used up."""
    planned = steps + repair_steps if track.found.drop > criterion.stop.allowed_drop / 2 else steps
    return track.taken < planned and not track.ended


def _begins_again(task: Task, track: _Track, rate: Rate | None) -> bool:
    """Go back to the original and lower the rate, where every state lost too much and the rate can be lowered; return whether."""
    if rate is None or not track.untouched or rate.factor * _LOWER < _LEAST_FACTOR:
        return False
    rate.factor *= _LOWER
    task.model.load_state_dict(track.best)
    track.before, track.taken, track.losing, track.ended = track.before + track.taken, 0, 0, ""
    track.found = track.best_check
    return True


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


_SAMPLES = 128
_MAX_STEPS = 40
_RATE = 0.01
_TARGET_SHARE = 0.5


@in_float32
def relearns_slowly(task: Task, *, stop: Stop) -> bool:
    """Return whether the forget set takes at least `stop.relearn_share` of the steps in which never-learned data are learned.

    A copy of the model is fine-tuned by full-batch SGD on the forget set, another on criterion data of the same size and class mix;
    of equal samples on one alone, because copies are learned together.
    A set counts as learned once its loss is at most half of the control's loss at the start. If even the control is not learned
    in 40 steps, the probe cannot tell and returns True.
    """
    if not stop.relearn_share:
        return True
    forget = _distinct(task.forget.take(torch.arange(min(_SAMPLES, len(task.forget)))))
    control = _distinct(_same_class_mix(forget, task.criterion, task.objective)).batch
    target = _TARGET_SHARE * _mean_loss(task.model, task.objective, control)
    control_steps = _steps_to_loss(target, task.model, task.objective, control)
    return (
        control_steps == _MAX_STEPS
        or _steps_to_loss(target, task.model, task.objective, forget.batch) >= stop.relearn_share * control_steps
    )


def _distinct(samples: SampleSet) -> SampleSet:
    return take_places(samples, distinct_places(samples))


def _same_class_mix(forget: SampleSet, pool: SampleSet, objective: Objective) -> SampleSet:
    """Take as many samples of the pool as the forget set has, class by class (fewer if the pool has too few of a class)."""
    if objective.classes is None:
        return pool.take(torch.arange(min(len(forget), len(pool))))
    counts = torch.bincount(forget.targets, minlength=objective.classes).tolist()
    chosen = [(pool.targets == label).nonzero().flatten()[:count] for label, count in enumerate(counts)]
    index = torch.cat(chosen)
    return pool.take(index if len(index) else torch.arange(min(len(forget), len(pool))))


@torch.no_grad()
def _mean_loss(model: nn.Module, objective: Objective, batch: Batch) -> float:
    return ranks.agreed(float(objective.losses(model, batch).mean()))


def _steps_to_loss(target: float, model: nn.Module, objective: Objective, batch: Batch) -> int:
    """Count the steps in which a copy of the model reaches the target loss, nats; at most 40."""
    learner = copy_network(model)
    optimiser = torch.optim.SGD(trainable(learner).values(), lr=_RATE, momentum=0.9)
    for step in range(_MAX_STEPS):
        loss = objective.losses(learner, batch).mean()
        if ranks.agreed(float(loss.detach())) <= target:
            return step
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]  # torch leaves Tensor.backward untyped
        optimiser.step()
    return _MAX_STEPS
