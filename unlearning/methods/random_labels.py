"""Random labels (RandL): train on the forget set with random labels, then on the remaining set."""

from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor

from unlearning.methods.fixed_schedule import learn_forget_batch, mean_loss, rehearse, run_schedule
from unlearning.specs import RandomLabels
from unlearning.steps import Steps
from unlearning.task import Task
from unlearning.training.optimisation import optimiser_for


def random_labels(spec: RandomLabels, task: Task) -> Steps:
    """Train each epoch on D_f with labels drawn anew, the true one not excluded, then on D_r, in place (Golatkar et al., 2020).

    Raises MethodRefused without `scramble`.
    """
    task.objective.scrambled(task.forget.select(torch.arange(1)), torch.Generator())
    generator = torch.Generator().manual_seed(task.seed)
    optimiser = optimiser_for(task.model, task.objective, rate=spec.learning_rate)

    def steps() -> Iterator[Callable[[], Tensor]]:
        for _ in range(spec.epochs):
            for batch in task.forget.epoch(spec.batch_size, generator):
                scrambled = task.objective.scrambled(batch, generator)
                loss = mean_loss(task, scrambled)
                yield partial(learn_forget_batch, task, optimiser, loss, samples=scrambled.size)
            for batch in task.remain.epoch(spec.batch_size, generator):
                yield partial(rehearse, task, optimiser, batch)

    batches = task.forget.batch_count(spec.batch_size) + task.remain.batch_count(spec.batch_size)
    return (yield from run_schedule(task, optimiser, steps(), total=spec.epochs * batches))
