"""The relabelling that public code calls "amnesiac"."""

from collections.abc import Callable, Iterator
from functools import partial

import torch

from unlearning.data.samples import Batch
from unlearning.gradients import descent
from unlearning.specs import AmnesiacRelabel
from unlearning.task import Steps, Task
from unlearning.training.loop import counted, learn_mixed, mean_loss, mixed_count, mixed_epoch, wrong_labels


def amnesiac_relabel(spec: AmnesiacRelabel, task: Task) -> Steps:
    """Give D_f wrong labels, once, and train on it mixed with D_r for a few epochs, in place (Graves et al., AAAI 2021).

    Raises MethodRefused where the objective has no classes.
    """
    generator = torch.Generator().manual_seed(task.seed)
    relabelled = Batch(task.forget.inputs, wrong_labels(task, task.forget.targets, generator))
    optimiser = descent(task.model, rate=spec.learning_rate)

    def steps() -> Iterator[Callable[[], float]]:
        for _ in range(spec.epochs):
            for part in mixed_epoch(task.remain.batch, relabelled, size=spec.batch_size, generator=generator):
                yield partial(learn_mixed, task, optimiser, part, mean_loss(task, part.batch))

    total = spec.epochs * mixed_count(task.remain.batch, relabelled, size=spec.batch_size)
    return (yield from counted(task, optimiser, steps(), total=total))
