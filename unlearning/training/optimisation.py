"""Optimiser steps that the methods share: SGD, Adam and Muon, the learning-rate schedule, clipped steps, batch norm in a step."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from unlearning.data.batches import Batch
from unlearning.data.objectives import Objective
from unlearning.gradients import clip_gradient, flat_gradient, trainable
from unlearning.hardware import in_float32
from unlearning.networks import batch_norm_layers, moving_batch_norm
from unlearning.sharding import gathered, is_sharded, local, of_parts, part_like

_ADAM_SHARE = 0.02
"""Adam's learning rate as a share of SGD's [ours]."""
_MATRIX_RATE = 0.2
"""What Muon moves a matrix by, as a share of the matrix's length, in units of the learning rate [ours]."""
_LEAST_LENGTH = 0.1
"""The least length that a matrix counts as, in units of the one that torch initialises it with: one that is 0 must move too."""
_ITERATION = (3.4445, -4.7750, 2.0315)
"""The coefficients (a, b, c) of X ← aX + (bA + cA²)X with A = XXᵀ, which Jordan et al. chose to converge fast (2024)."""
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


class Muon(torch.optim.Optimizer):
    """SGD with momentum that orthogonalises the steps of matrices (Jordan et al., 2024, kellerjordan.github.io/posts/muon).

    With G the gradient, m ← μm + G and M = G + μm = USVᵀ, a weight W of two or more dimensions, as a matrix (first dimension × the
    rest) of several rows and columns, takes the step

        W ← W − 0.2 η · ‖W‖ · O / ‖O‖,  O ≈ UVᵀ (`orthogonalised`)

    in which all directions of M count alike. It is relative to W's length [ours], because a network with normalisation may have
    weights of any length; rows without momentum, such as tokens that no text has, are no part of that length. All other parameters,
    and complex ones, take the steps p ← p − ηM. No weight decays.

    rate: η. momentum: μ.
    """

    def __init__(self, parameters: Iterable[Tensor], *, rate: float, momentum: float = 0.9) -> None:
        super().__init__(parameters, {"lr": rate, "momentum": momentum})

    @in_float32
    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]  # no loss is computed again
        """Take one step by the parameters' `grad`."""
        assert closure is None
        for group in self.param_groups:
            for p in group["params"]:
                state = self.state[p]
                if not state:
                    state["momentum"] = torch.zeros_like(p)
                momentum = state["momentum"].mul_(group["momentum"]).add_(p.grad)
                ahead = p.grad + group["momentum"] * momentum
                if _is_matrix(p):
                    _turn(p, ahead, rate=_MATRIX_RATE * group["lr"])
                else:
                    p.sub_(ahead, alpha=group["lr"])


def _is_matrix(p: Tensor) -> bool:
    return p.dim() > 1 and 1 < p.shape[0] < p.numel() and not p.is_complex()


def _turn(weight: Tensor, towards: Tensor, *, rate: float) -> None:
    """Move a matrix, in place, by `rate` of its length against the orthogonalised direction."""
    step = orthogonalised(gathered(towards).flatten(1).float())
    moving = step.any(1)
    rows = gathered(weight).flatten(1).float() * moving[:, None]
    initial = (moving.sum() / 3).sqrt()
    length = torch.maximum(rows.norm(), _LEAST_LENGTH * initial)
    step *= rate * length / step.norm().clamp(min=1e-12)
    local(weight).sub_(local(part_like(step.reshape(weight.shape).to(weight.dtype), weight)))


def orthogonalised(matrix: Tensor) -> Tensor:
    """Compute roughly UVᵀ of a matrix USVᵀ, (m, n), by five Newton–Schulz iterations (Jordan et al., 2024).

    Singular values come to 0.7 to 1.2; what is 0 stays 0.
    """
    a, b, c = _ITERATION
    flat = matrix.shape[0] > matrix.shape[1]
    x = matrix.T if flat else matrix
    x = x / x.norm().clamp(min=1e-12)
    for _ in range(5):
        square = x @ x.T
        x = a * x + (b * square + c * square @ square) @ x
    found: Tensor = x.T if flat else x
    return found


def optimiser_towards_aims(model: nn.Module, objective: Objective, *, rate: float) -> torch.optim.Optimizer:
    """Make what takes a method's steps towards aims over the trainable parameters: Muon, or for image generators `optimiser_for`.

    Muon takes less than half of the steps (docs/benchmarks/defaults.md). At rates that forget as much it spoils more of what an
    image generator generates.
    """
    if objective.generation is not None:
        return optimiser_for(model, objective, rate=rate)
    return Muon(trainable(model).values(), rate=rate)


def anneal(optimiser: torch.optim.Optimizer, *, share_left: float, held: float = 0.5, factor: float = 1.0) -> None:
    """Set the learning rate: all of it in the first part of a run, then falling linearly to zero.

    share_left: the share of the run that is left, 0 to 1. What a model has memorised settles only at a small rate. held: the share
    of the run that has the whole rate, below 1. factor: of the whole schedule.
    """
    set_rate(optimiser, factor * min(1.0, share_left / (1 - held)))


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
