"""The relearn probe of the calibrated stop: a set that is relearned at once is still known, even if it looks forgotten [ours]."""

import torch
from torch import nn

from unlearning import ranks
from unlearning.data.batches import Batch
from unlearning.data.objectives import Objective
from unlearning.data.samples import SampleSet
from unlearning.gradients import trainable
from unlearning.hardware import in_float32
from unlearning.networks import copy_network
from unlearning.specs import Stop
from unlearning.task import Task

_SAMPLES = 128
_MAX_STEPS = 40
_RATE = 0.01
_TARGET_SHARE = 0.5


@in_float32
def relearns_slowly(task: Task, *, stop: Stop) -> bool:
    """Return whether the forget set takes at least `stop.relearn_share` of the steps in which never-learned data are learned.

    A copy of the model is fine-tuned by full-batch SGD on the forget set, another on criterion data of the same size and class mix.
    A set counts as learned once its loss is at most half of the control's loss at the start. If even the control is not learned
    in 40 steps, the probe cannot tell and returns True.
    """
    if not stop.relearn_share:
        return True
    forget = task.forget.take(torch.arange(min(_SAMPLES, len(task.forget))))
    control = _same_class_mix(forget, task.criterion, task.objective)
    target = _TARGET_SHARE * _mean_loss(task.model, task.objective, control)
    control_steps = _steps_to_loss(target, task.model, task.objective, control)
    return (
        control_steps == _MAX_STEPS
        or _steps_to_loss(target, task.model, task.objective, forget.batch) >= stop.relearn_share * control_steps
    )


def _same_class_mix(forget: SampleSet, pool: SampleSet, objective: Objective) -> Batch:
    """Take as many samples of the pool as the forget set has, class by class (fewer if the pool has too few of a class)."""
    if objective.classes is None:
        return pool.select(torch.arange(min(len(forget), len(pool))))
    counts = torch.bincount(forget.targets, minlength=objective.classes).tolist()
    chosen = [(pool.targets == label).nonzero().flatten()[:count] for label, count in enumerate(counts)]
    index = torch.cat(chosen)
    return pool.select(index if len(index) else torch.arange(min(len(forget), len(pool))))


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
