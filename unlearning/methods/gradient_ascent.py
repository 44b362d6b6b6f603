"""Gradient ascent on the forget set's loss, the simplest baseline."""

from collections.abc import Mapping

import torch

from unlearning.gradients import flat_gradient, step_along, trainable
from unlearning.specs import GradientAscent
from unlearning.steps import Figures, Steps
from unlearning.stopping.criterion import Check, calibrate
from unlearning.stopping.stop import Rate, run_with_stop
from unlearning.task import Task


def gradient_ascent(spec: GradientAscent, task: Task) -> Steps:
    """Update θ ← θ + η ∇ mean ℓ(B_f; θ), in place, under the calibrated stop."""
    task.model.eval()
    generator = torch.Generator().manual_seed(task.seed)
    criterion = calibrate(task, spec.stop)
    rate = Rate()
    task.state.register(model=task.model, generator=generator, rate=rate)

    def step(number: int, latest: Check) -> Mapping[str, float]:
        parameters = trainable(task.model)
        forget = task.forget.draw(spec.batch_size, generator)
        loss = task.objective.for_step().losses(task.model, forget).mean()
        step_along(parameters.values(), flat_gradient(loss, parameters), rate=-rate.factor * spec.learning_rate)
        return Figures(forget_loss=loss)

    return (yield from run_with_stop(task, criterion, step, steps=spec.steps, rate=rate))
