"""Fine-tuning on the remaining set (FT)."""

from collections.abc import Callable, Iterator
from functools import partial

import torch

from unlearning.gradients import descent
from unlearning.specs import FineTune
from unlearning.task import Steps, Task
from unlearning.training.loop import counted, rehearse


def fine_tune(spec: FineTune, task: Task) -> Steps:
    """Train on D_r alone for some epochs, in place, and let D_f be forgotten by not being rehearsed (Warnecke et al., 2023)."""
    generator = torch.Generator().manual_seed(task.seed)
    optimiser = descent(task.model, rate=spec.learning_rate)

    def steps() -> Iterator[Callable[[], float]]:
        for _ in range(spec.epochs):
            for batch in task.remain.epoch(spec.batch_size, generator):
                yield partial(rehearse, task, optimiser, batch)

    return (yield from counted(task, optimiser, steps(), total=spec.epochs * task.remain.batch_count(spec.batch_size)))
