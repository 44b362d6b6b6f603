"""How much each weight matters for a set of samples: the diagonal of the Fisher information."""

import warnings
from collections.abc import Callable, Mapping

import torch
from torch import Tensor
from torch.func import grad, vmap

from unlearning.data.batches import Batch, Inputs
from unlearning.data.objectives import undivided
from unlearning.errors import MethodRefused
from unlearning.gradients import forward_with, trainable
from unlearning.hardware import in_float32
from unlearning.task import Task

_CHUNK = 32
"""Samples whose gradients are in memory at once: each takes as much as the model."""

Importance = dict[str, Tensor]
"""By parameter name, of the parameter's shape: the mean over samples of the squared gradient of each sample's loss."""


def zero_importance(task: Task) -> Importance:
    """Return zeros for `add_squared_gradients` to add to."""
    return {name: torch.zeros_like(p, requires_grad=False) for name, p in trainable(task.model).items()}


@in_float32
def add_squared_gradients(importance: Importance, task: Task, batch: Batch, *, of: int) -> None:
    """Add Σ (∂ℓ(x)/∂θ)² / `of` over the samples of the batch, in place, with the model in evaluation mode.

    These are squares of single samples' gradients, as the papers define them, not the square of a batch's mean gradient.
    """
    parameters = {name: p.detach() for name, p in trainable(task.model).items()}

    objective = undivided(task.objective)

    def loss(given: Mapping[str, Tensor], x: Inputs, y: Tensor) -> Tensor:
        return objective.losses(forward_with(task.model, given), Batch(x, y).map(lambda tensor: tensor[None])).sum()

    for part in batch.batches(_CHUNK):
        for name, gradient in _sample_gradients(loss, parameters, part).items():
            importance[name] += gradient.pow(2).sum(0) / of


def _sample_gradients(
    loss: Callable[[Mapping[str, Tensor], Inputs, Tensor], Tensor], parameters: dict[str, Tensor], batch: Batch
) -> dict[str, Tensor]:
    """Compute the gradient of each sample's loss, by parameter, (n, …)."""
    with warnings.catch_warnings():
        # Some operations, as of recurrent layers, are computed one by one, which is slow and right.
        warnings.filterwarnings("ignore", "There is a performance drop", UserWarning)
        try:
            return dict(vmap(grad(loss), in_dims=(None, 0, 0))(parameters, *batch))
        except (RuntimeError, ValueError):
            # And some cannot be computed for several samples at once.
            single = [grad(loss)(parameters, *batch.take(number)) for number in range(batch.size)]
            return {name: torch.stack([gradients[name] for gradients in single]) for name in parameters}


@torch.no_grad()
def with_drawn_labels(task: Task, batch: Batch, generator: torch.Generator) -> Batch:
    """Return the batch with targets drawn from the model's prediction, over which the Fisher information is an expectation.

    Raises MethodRefused without logits.
    """
    if task.objective.logits is None:
        raise MethodRefused(
            "The labels of Fisher information are drawn from class probabilities; this objective has no classes. Use IEU."
        )
    p = task.objective.logits(task.model, batch.inputs).float().softmax(-1)
    drawn = torch.multinomial(p.cpu(), 1, generator=generator).squeeze(1)
    return Batch(batch.inputs, drawn.to(batch.device))
