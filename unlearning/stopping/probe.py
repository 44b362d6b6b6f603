"""The relearn probe: looking alike is not forgetting, and a set that comes back at once is still remembered."""

import copy

import torch
from torch import nn

from unlearning.data.objectives import Objective
from unlearning.data.samples import Batch, SampleSet
from unlearning.precision import in_float32
from unlearning.specs import Stop
from unlearning.task import Task

_SAMPLES = 128
_MOST_STEPS = 40
_RATE = 0.01
_REACHED = 0.5


@in_float32
def lasting(task: Task, *, stop: Stop) -> bool:
    """Whether the forget set takes at least `stop.relearn_share` of the steps that never-learnt data take to be learnt.

    A copy of the model is fine-tuned with plain full-batch SGD on the forget set, another on criterion data of the same size and
    class mix; a set is learnt once its loss is half of the control's at the start. Where even the control does not get there in 40
    steps the probe cannot tell, and does not object.
    """
    if not stop.relearn_share:
        return True
    forget = task.forget.take(torch.arange(min(_SAMPLES, len(task.forget))))
    control = _same_mix(forget, task.criterion, task.objective)
    target = _REACHED * _mean_loss(task.model, task.objective, control)
    needed = _steps_to(target, task.model, task.objective, control)
    return (
        needed == _MOST_STEPS
        or _steps_to(target, task.model, task.objective, forget.batch) >= stop.relearn_share * needed
    )


def _same_mix(forget: SampleSet, pool: SampleSet, objective: Objective) -> Batch:
    """As many samples of the pool as the forget set has, class by class where there are classes (fewer where the pool is short)."""
    if objective.classes is None:
        return pool.select(torch.arange(min(len(forget), len(pool))))
    wanted = torch.bincount(forget.targets, minlength=objective.classes).tolist()
    chosen = [(pool.targets == label).nonzero().flatten()[:count] for label, count in enumerate(wanted)]
    index = torch.cat(chosen)
    return pool.select(index if len(index) else torch.arange(min(len(forget), len(pool))))


@torch.no_grad()
def _mean_loss(model: nn.Module, objective: Objective, batch: Batch) -> float:
    return float(objective.losses(model, batch).mean())


def _steps_to(target: float, model: nn.Module, objective: Objective, batch: Batch) -> int:
    learner = copy.deepcopy(model)
    optimiser = torch.optim.SGD(learner.parameters(), lr=_RATE, momentum=0.9)
    for step in range(_MOST_STEPS):
        loss = objective.losses(learner, batch).mean()
        if float(loss.detach()) <= target:
            return step
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]  # torch leaves Tensor.backward untyped
        optimiser.step()
    return _MOST_STEPS
