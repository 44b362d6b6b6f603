"""Gradients through a model whose parameters are put in from outside, and updates as one flat vector.

`copy.deepcopy(model)` cannot serve here: its parameters are other tensors, and nothing flows back to the original's.
"""

from collections.abc import Callable, Iterable, Mapping

import torch
from torch import Tensor, nn
from torch.func import functional_call

from unlearning.objective import Forward

Parameters = Mapping[str, Tensor]
Loss = Callable[[Forward], Tensor]
"""A scalar loss as a function of the forward pass."""


def trainable(model: nn.Module) -> dict[str, Tensor]:
    """The parameters that training moves, by name."""
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


def forward_with(model: nn.Module, parameters: Parameters) -> Forward:
    """The model's forward pass with `parameters` put in; buffers are copies, so batch norm's statistics stay as they are."""
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    return lambda inputs: functional_call(model, {**buffers, **parameters}, (inputs,))


def descend(parameters: Parameters, loss: Tensor, *, rate: float, differentiable: bool) -> dict[str, Tensor]:
    """One gradient step θ − rate·∇loss as new tensors; `rate` below 0 ascends.

    With `differentiable`, a later gradient flows through the step (second order); without, only through θ (first order).
    """
    gradients = torch.autograd.grad(
        loss, list(parameters.values()), create_graph=differentiable, retain_graph=True, allow_unused=True
    )
    moves = zip(parameters.items(), gradients, strict=True)
    return {name: p if g is None else p - rate * (g if differentiable else g.detach()) for (name, p), g in moves}


def flat_gradient(loss: Tensor, parameters: Parameters) -> Tensor:
    """∇loss as one vector (p,) over all parameters, in their order."""
    gradients = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True)
    filled = (torch.zeros_like(p) if g is None else g for p, g in zip(parameters.values(), gradients, strict=True))
    return torch.cat([g.reshape(-1) for g in filled])


def clipped(gradient: Tensor, longest: float) -> Tensor:
    """The gradient (p,), scaled down to length `longest` where it is longer."""
    scale: Tensor = longest / gradient.norm().clamp(min=longest)
    return gradient * scale


def shortened(loss: Tensor, parameters: Parameters, longest: float) -> Tensor:
    """The same scalar; its gradient by all these parameters together is scaled down to length `longest` where it is longer."""
    gradient = clipped(flat_gradient(loss, parameters), longest)
    weights = torch.cat([p.reshape(-1) for p in parameters.values()])
    return loss.detach() + (weights - weights.detach()) @ gradient


@torch.no_grad()
def step_along(parameters: Iterable[Tensor], direction: Tensor, *, rate: float) -> None:
    """θ ← θ − rate·direction, in place; direction is one vector (p,) in the parameters' order."""
    start = 0
    for p in parameters:
        p -= rate * direction[start : start + p.numel()].view_as(p)
        start += p.numel()
