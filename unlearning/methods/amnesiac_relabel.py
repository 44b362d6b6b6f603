"""Amnesiac relabelling: the method that public code calls "amnesiac"."""

from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor

from unlearning.data.samples import joined
from unlearning.methods.fixed_schedule import (
    learn_mixed_batch,
    mean_loss,
    mixed_batch_count,
    mixed_epoch,
    run_schedule,
    wrong_labels,
)
from unlearning.specs import AmnesiacRelabel
from unlearning.steps import Steps
from unlearning.task import Task
from unlearning.training.optimisation import sgd


def amnesiac_relabel(spec: AmnesiacRelabel, task: Task) -> Steps:
    """Give D_f wrong labels, once, and train on it mixed with D_r for some epochs, in place (Graves et al., AAAI 2021).

    Raises MethodRefused without classes.
    """
    generator = torch.Generator().manual_seed(task.seed)
    relabelled = task.forget.convert_targets(lambda targets: wrong_labels(task, targets, generator))
    mixed, remaining = joined(task.remain, relabelled), len(task.remain)
    optimiser = sgd(task.model, rate=spec.learning_rate)

    def steps() -> Iterator[Callable[[], Tensor]]:
        for _ in range(spec.epochs):
            for part in mixed_epoch(mixed, remaining=remaining, size=spec.batch_size, generator=generator):
                yield partial(learn_mixed_batch, task, optimiser, part, mean_loss(task, part.batch))

    total = spec.epochs * mixed_batch_count(mixed, size=spec.batch_size)
    return (yield from run_schedule(task, optimiser, steps(), total=total))
