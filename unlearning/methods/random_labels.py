"""Random labels on the forget set, then the remaining set (RandL)."""

from collections.abc import Callable, Iterator
from functools import partial

import torch

from unlearning.gradients import descent
from unlearning.specs import RandomLabels
from unlearning.task import Steps, Task
from unlearning.training.loop import counted, learn_blindly, mean_loss, rehearse


def random_labels(spec: RandomLabels, task: Task) -> Steps:
    """Each epoch trains on D_f with targets drawn anew, the true one not excluded, then on D_r (Golatkar et al., CVPR 2020)."""
    generator = torch.Generator().manual_seed(task.seed)
    optimiser = descent(task.model, rate=spec.learning_rate)

    def steps() -> Iterator[Callable[[], float]]:
        for _ in range(spec.epochs):
            for batch in task.forget.epoch(spec.batch_size, generator):
                scrambled = task.objective.scramble(batch, generator)
                loss = mean_loss(task, scrambled)
                yield partial(learn_blindly, task, optimiser, loss, samples=len(scrambled.targets))
            for batch in task.remain.epoch(spec.batch_size, generator):
                yield partial(rehearse, task, optimiser, batch)

    batches = task.forget.batch_count(spec.batch_size) + task.remain.batch_count(spec.batch_size)
    return (yield from counted(task, optimiser, steps(), total=spec.epochs * batches))
