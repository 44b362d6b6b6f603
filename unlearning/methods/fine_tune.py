"""Fine-tuning (FT): train on the remaining set alone."""

from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor

from unlearning.methods.fixed_schedule import rehearse, run_schedule
from unlearning.specs import FineTune
from unlearning.task import Steps, Task
from unlearning.training.optimisation import sgd


def fine_tune(spec: FineTune, task: Task) -> Steps:
    """Train on D_r alone for some epochs, in place; D_f is forgotten because it is not rehearsed (Warnecke et al., NDSS 2023)."""
    generator = torch.Generator().manual_seed(task.seed)
    optimiser = sgd(task.model, rate=spec.learning_rate)

    def steps() -> Iterator[Callable[[], Tensor]]:
        for _ in range(spec.epochs):
            for batch in task.remain.epoch(spec.batch_size, generator):
                yield partial(rehearse, task, optimiser, batch)

    return (
        yield from run_schedule(task, optimiser, steps(), total=spec.epochs * task.remain.batch_count(spec.batch_size))
    )
