"""Fine-tuning (FT): train on the remaining set alone."""

import torch

from unlearning.methods.fixed_schedule import rehearse_epochs
from unlearning.specs import FineTune
from unlearning.steps import Steps
from unlearning.task import Task
from unlearning.training.optimisation import sgd


def fine_tune(spec: FineTune, task: Task) -> Steps:
    """Train on D_r alone for some epochs, in place; D_f is forgotten because it is not rehearsed (Warnecke et al., NDSS 2023)."""
    generator = torch.Generator().manual_seed(task.seed)
    optimiser = sgd(task.model, rate=spec.learning_rate)
    rates = [spec.learning_rate] * spec.epochs
    return (yield from rehearse_epochs(task, optimiser, generator, rates=rates, size=spec.batch_size))
