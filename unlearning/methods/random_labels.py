"""Random labels on the forget set, then the remaining set (RandL)."""

from collections.abc import Iterator

import torch

from unlearning.descent import descent
from unlearning.epochs import counted, learn_blindly, mean_loss, rehearse
from unlearning.specs import RandomLabels
from unlearning.task import Steps, Task


def random_labels(spec: RandomLabels, task: Task) -> Steps:
    """Each epoch trains on D_f with targets drawn anew, the true one not excluded, then on D_r (Golatkar et al., CVPR 2020)."""
    generator = torch.Generator().manual_seed(task.seed)
    optimiser = descent(task.model, rate=spec.learning_rate)

    def losses() -> Iterator[float]:
        for _ in range(spec.epochs):
            for batch in task.forget.epoch(spec.batch_size, generator):
                scrambled = task.objective.scramble(batch, generator)
                yield learn_blindly(task, optimiser, mean_loss(task, scrambled), samples=len(scrambled.targets))
            for batch in task.remain.epoch(spec.batch_size, generator):
                yield rehearse(task, optimiser, batch)

    batches = task.forget.batch_count(spec.batch_size) + task.remain.batch_count(spec.batch_size)
    return (yield from counted(losses(), total=spec.epochs * batches))
