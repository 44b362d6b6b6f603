"""Optimiser steps that the methods share: SGD and Adam, their learning-rate schedule, clipped steps, batch norm during a step."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from unlearning.data.batches import Batch
from unlearning.data.objectives import Objective
from unlearning.gradients import clip_gradient, flat_gradient, trainable
from unlearning.networks import batch_norm_layers, moving_batch_norm
from unlearning.sharding import is_sharded, local, of_parts

_ADAM_SHARE = 0.02
"""Adam's learning rate as a share of SGD's [ours]."""
MIN_NORMALISED_BATCH = 16
"""Samples. Batch norm does not normalise by fewer: their statistics are noise, and one sample has none."""


def sgd(model: nn.Module, *, rate: float) -> torch.optim.SGD:
    """Make SGD with momentum 0.9 and weight decay 5e-4, usual for image classifiers, over the trainable parameters."""
    return torch.optim.SGD(trainable(model).values(), lr=rate, momentum=0.9, weight_decay=5e-4)


def optimiser_for(model: nn.Module, objective: Objective, *, rate: float) -> torch.optim.Optimizer:
    """Make what takes a method's steps over the trainable parameters: `sgd`, or Adam where the objective names it.

    rate: SGD's learning rate. Adam's, without weight decay, is a fiftieth of it, so that a method's defaults and ranges suit both
    [ours]. Weights in float16 get SGD in any case: the squares that Adam keeps would be 0 there.
    """
    parameters = trainable(model).values()
    if objective.optimiser == "sgd" or any(p.dtype == torch.float16 for p in parameters):
        return sgd(model, rate=rate)
    return torch.optim.Adam(parameters, lr=rate * _ADAM_SHARE)


def anneal(optimiser: torch.optim.Optimizer, *, share_left: float, factor: float = 1.0) -> None:
    """Set the learning rate: all of it in the first half of a run, then falling linearly to zero.

    share_left: the share of the run that is left, 0 to 1. What a model has memorised settles only at a small rate. factor: of the
    whole schedule.
    """
    set_rate(optimiser, factor * min(1.0, 2 * share_left))


def set_rate(optimiser: torch.optim.Optimizer, share: float) -> None:
    """Set the learning rate to a share of the one that the optimiser was made with."""
    for group in optimiser.param_groups:
        group["lr"] = share * optimiser.defaults["lr"]


def share_left(number: int, *, steps: int, repair_steps: int) -> float:
    """Compute what is left at step `number`, from 1: of the run 1 down to 0, of the repair after it 1/4 down to 0.

    The repair so begins at half of the learning rate (see `anneal`).
    """
    if number <= steps:
        return 1 - (number - 1) / steps
    return (1 - (number - 1 - steps) / repair_steps) / 4


def apply_gradient(optimiser: torch.optim.Optimizer, gradient: Tensor) -> None:
    """Take one optimiser step.

    gradient: one vector (p,) in the order of the optimiser's parameters; of sharded ones this rank's parts (`flat_gradient`).
    """
    start = 0
    for group in optimiser.param_groups:
        for p in group["params"]:
            count = local(p).numel()
            p.grad = of_parts(gradient[start : start + count].to(p.dtype, copy=True), p)
            start += count
    optimiser.step()
    optimiser.zero_grad()


def minimise(model: nn.Module, optimiser: torch.optim.Optimizer, loss: Tensor, *, max_gradient_norm: float) -> Tensor:
    """Take one optimiser step on a scalar loss, with its gradient clipped, and return the loss before the step, a scalar."""
    gradient = flat_gradient(loss, trainable(model))
    apply_gradient(optimiser, clip_gradient(gradient, max_gradient_norm, sharded=is_sharded(model)))
    return loss.detach()


@contextmanager
def batch_statistics(model: nn.Module, *, samples: int) -> Iterator[list[nn.Module]]:
    """Let batch norm normalise by the batch, as in training, while dropout stays off. Batch norm that training freezes stays so.

    samples: the size of the batch; with fewer than 16 batch norm keeps using its running statistics. Gives the layers that
    normalise by the batch.
    """
    moving = moving_batch_norm(model) if samples >= MIN_NORMALISED_BATCH else []
    layers = [layer for layer in moving if not layer.training]
    for layer in layers:
        layer.training = True
    try:
        yield moving
    finally:
        for layer in layers:
            layer.training = False


@torch.no_grad()
def update_running_statistics(model: nn.Module, objective: Objective, batch: Batch) -> None:
    """Update batch norm's running statistics, which must match the changed weights, from a batch of remaining data only."""
    with batch_statistics(model, samples=batch.size) as moving:
        if moving:
            objective.losses(model, batch)  # which knows how the model is called


@contextmanager
def training_mode(model: nn.Module, *, samples: int) -> Iterator[None]:
    """Turn dropout on and let batch norm normalise by the batch; with fewer than 16 samples batch norm stays in evaluation mode.

    The model is left in evaluation mode.
    """
    model.train()
    if samples < MIN_NORMALISED_BATCH:
        for layer in batch_norm_layers(model):
            layer.eval()
    try:
        yield
    finally:
        model.eval()
