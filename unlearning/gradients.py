"""Gradients through a model whose parameters are put in from outside, and updates as one flat vector.

`copy.deepcopy(model)` cannot serve here: its parameters are other tensors, and nothing flows back to the original's.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.func import functional_call

from unlearning.data.objectives import Forward

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


FEWEST_TO_NORMALISE_BY = 16
"""Batch norm does not normalise by fewer samples than this: their statistics are noise."""


def descent(model: nn.Module, *, rate: float) -> torch.optim.SGD:
    """SGD with momentum over what training moves: 0.9 and a weight decay of 5e-4, as networks of this kind are trained."""
    return torch.optim.SGD(trainable(model).values(), lr=rate, momentum=0.9, weight_decay=5e-4)


def anneal(optimiser: torch.optim.Optimizer, *, rate: float, share_left: float) -> None:
    """Let the rate fall linearly to zero over the last half of a run; memorised detail settles only at a small rate."""
    for group in optimiser.param_groups:
        group["lr"] = rate * min(1.0, 2 * share_left)


def share_left(number: int, *, steps: int, repair_steps: int) -> float:
    """What is left at step `number`, from 1, for `anneal`: of a run 1 down to 0, of the repair after it 1/4 down to 0.

    The repair so begins at half of the rate.
    """
    if number <= steps:
        return 1 - (number - 1) / steps
    return (1 - (number - 1 - steps) / repair_steps) / 4


def follow(optimiser: torch.optim.Optimizer, direction: Tensor) -> None:
    """One step against `direction`, one vector (p,) in the order of the optimiser's parameters."""
    start = 0
    for group in optimiser.param_groups:
        for p in group["params"]:
            p.grad = direction[start : start + p.numel()].view_as(p).clone()
            start += p.numel()
    optimiser.step()
    optimiser.zero_grad()


def follow_loss(model: nn.Module, optimiser: torch.optim.Optimizer, loss: Tensor, *, longest: float) -> float:
    """One step down a loss, a scalar, over all that training moves, its gradient no longer than `longest`. Gives the loss, nats."""
    follow(optimiser, clipped(flat_gradient(loss, trainable(model)), longest))
    return float(loss.detach())


def batch_norms(model: nn.Module) -> list[nn.Module]:
    """The layers that normalise a sample by the others of its batch."""
    return [layer for layer in model.modules() if isinstance(layer, nn.modules.batchnorm._BatchNorm)]


@contextmanager
def batch_statistics(model: nn.Module, *, samples: int) -> Iterator[None]:
    """Let batch norm normalise by the batch, as in training; dropout stays off.

    By fewer than 16 samples nothing is normalised: their statistics are noise, and those of one sample are nothing.
    """
    norms = [norm for norm in batch_norms(model) if not norm.training]
    for norm in norms if samples >= FEWEST_TO_NORMALISE_BY else ():
        norm.train()
    try:
        yield
    finally:
        for norm in norms:
            norm.eval()


@torch.no_grad()
def follow_statistics(model: nn.Module, inputs: Tensor) -> None:
    """Let batch norm's running statistics follow the weights, on remaining data alone."""
    if batch_norms(model):
        with batch_statistics(model, samples=len(inputs)):
            model(inputs)
