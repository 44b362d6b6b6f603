"""GradDiff: ascend on the forget set and descend on as many remaining samples in the same step."""

from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor

from unlearning.gradients import trainable
from unlearning.methods.fixed_schedule import ascent, forget_epochs, learn_and_forget, run_schedule
from unlearning.specs import GradDiff
from unlearning.steps import Steps
from unlearning.task import Task


def grad_diff(spec: GradDiff, task: Task) -> Steps:
    """Minimise L(B_r; θ) − γ·L(B_f; θ), in place (Liu, Liu, Stone, CoLLAs 2022; "gradient difference" of TOFU, arXiv 2401.06121).

    An epoch goes through D_f once; each of its steps draws as many remaining samples.
    """
    generator = torch.Generator().manual_seed(task.seed)
    optimiser = torch.optim.AdamW(trainable(task.model).values(), lr=spec.learning_rate)

    def steps() -> Iterator[Callable[[], Tensor]]:
        for forget, remain in forget_epochs(task, epochs=spec.epochs, size=spec.batch_size, generator=generator):
            loss = ascent(task, forget, weight=spec.forget_weight)
            yield partial(learn_and_forget, task, optimiser, remain, forget, loss=loss, remain_weight=1.0)

    total = spec.epochs * task.forget.batch_count(spec.batch_size)
    return (yield from run_schedule(task, optimiser, steps(), total=total))
