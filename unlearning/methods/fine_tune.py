"""Fine-tuning (FT): train on the remaining set alone."""

import torch

from unlearning.methods.fixed_schedule import rehearse_epochs
from unlearning.specs import FineTune
from unlearning.steps import Steps
from unlearning.task import Task
from unlearning.training.optimisation import optimiser_for


def fine_tune(spec: FineTune, task: Task) -> Steps:
    """Train on D_r alone for some epochs, in place; D_f is forgotten because it is not rehearsed (Warnecke et al., NDSS 2023)."""
    generator = torch.Generator().manual_seed(task.seed)
    optimiser = optimiser_for(task.model, task.objective, rate=spec.learning_rate)
    shares = [1.0] * spec.epochs
    return (yield from rehearse_epochs(task, optimiser, generator, shares=shares, size=spec.batch_size))
