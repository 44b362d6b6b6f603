"""NegGrad+: descend on the remaining set and ascend on the forget set at the same time."""

from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor

from unlearning.methods.fixed_schedule import ascent, learn_and_forget, run_schedule
from unlearning.specs import NegGradPlus
from unlearning.steps import Steps
from unlearning.task import Task
from unlearning.training.optimisation import optimiser_for


def neggrad_plus(spec: NegGradPlus, task: Task) -> Steps:
    """Minimise β·L(B_r; θ) − (1 − β)·L(B_f; θ), in place (Kurmanji et al., NeurIPS 2023, arXiv 2302.09880).

    An epoch goes through D_r once; each of its steps draws a forget batch.
    """
    generator = torch.Generator().manual_seed(task.seed)
    optimiser = optimiser_for(task.model, task.objective, rate=spec.learning_rate)

    def steps() -> Iterator[Callable[[], Tensor]]:
        for _ in range(spec.epochs):
            for remain in task.remain.epoch(spec.batch_size, generator):
                forget = task.forget.draw(spec.batch_size, generator)
                loss = ascent(task, forget, weight=1 - spec.remain_weight)
                yield partial(
                    learn_and_forget, task, optimiser, remain, forget, loss=loss, remain_weight=spec.remain_weight
                )

    return (
        yield from run_schedule(task, optimiser, steps(), total=spec.epochs * task.remain.batch_count(spec.batch_size))
    )
