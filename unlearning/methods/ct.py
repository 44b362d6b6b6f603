"""Convolution transpose (CT): transpose the kernels of all convolutions, then fine-tune on the remaining set."""

import math

import torch

from unlearning.errors import MethodRefused
from unlearning.methods.fixed_schedule import rehearse_epochs
from unlearning.networks import square_kernels
from unlearning.specs import CT
from unlearning.steps import Steps
from unlearning.task import Task
from unlearning.training.optimisation import optimiser_for


def ct(spec: CT, task: Task) -> Steps:
    """Transpose the square kernels, then train on D_r, in place (Cadet et al., arXiv 2410.01276).

    The learning rate falls by half a cosine, epoch by epoch. Raises MethodRefused without a kernel of at least 2 × 2.
    """
    square = square_kernels(task.model)
    if not square:
        raise MethodRefused(
            "Convolution transpose needs convolutions with square kernels; the model has none to train."
        )
    with torch.no_grad():
        for kernel in square:
            kernel.copy_(kernel.transpose(-1, -2).clone())
    generator = torch.Generator().manual_seed(task.seed)
    optimiser = optimiser_for(task.model, task.objective, rate=spec.learning_rate)
    shares = [(1 + math.cos(math.pi * epoch / spec.epochs)) / 2 for epoch in range(spec.epochs)]
    return (yield from rehearse_epochs(task, optimiser, generator, shares=shares, size=spec.batch_size))
