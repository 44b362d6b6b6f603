"""Amnesiac relabelling: the method that public code calls "amnesiac"."""

import torch

from unlearning.methods.fixed_schedule import learn_mixed_epochs, mean_loss, wrong_labels
from unlearning.specs import AmnesiacRelabel
from unlearning.steps import Steps
from unlearning.task import Task
from unlearning.training.optimisation import optimiser_for


def amnesiac_relabel(spec: AmnesiacRelabel, task: Task) -> Steps:
    """Give D_f wrong labels, once, and train on it mixed with D_r for some epochs, in place (Graves et al., AAAI 2021).

    Raises MethodRefused without classes.
    """
    generator = torch.Generator().manual_seed(task.seed)
    relabelled = task.forget.convert_targets(lambda targets: wrong_labels(task, targets, generator))
    optimiser = optimiser_for(task.model, task.objective, rate=spec.learning_rate)
    steps = learn_mixed_epochs(
        spec,
        task,
        optimiser,
        generator,
        remain=task.remain,
        forget=relabelled,
        loss=lambda part: mean_loss(task, part.batch),
    )
    return (yield from steps)
