"""Gradients through a model whose parameters are passed in, and gradients as one flat vector.

Meta-learning differentiates a later loss with respect to the original parameters. `copy.deepcopy(model)` cannot serve for that: its
parameters are other tensors, so no gradient reaches the original's. `torch.func.functional_call` does.
"""

from collections.abc import Callable, Iterable, Mapping

import torch
from torch import Tensor, nn

from unlearning.data.objectives import Forward
from unlearning.errors import MethodRefused, UnsupportedWorkload
from unlearning.networks import check_differentiable, replaced
from unlearning.sharding import is_part, is_sharded, local, norm_of_parts

Parameters = Mapping[str, Tensor]
Loss = Callable[[Forward], Tensor]
"""A scalar loss as a function of the forward pass."""


def trainable(model: nn.Module) -> dict[str, Tensor]:
    """Return the parameters that require a gradient, by name."""
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


def forward_with(model: nn.Module, parameters: Parameters) -> Forward:
    """Return the model's forward pass with `parameters` in place of its own. Buffers are copied: batch norm's do not change.

    Raises UnsupportedWorkload for a scripted or data-parallel module, whose parameters cannot be replaced.
    """
    if isinstance(model, torch.jit.ScriptModule | nn.DataParallel | nn.parallel.DistributedDataParallel):
        raise UnsupportedWorkload(
            f"`build` returned a {type(model).__name__}; return the plain network, without the wrapper."
        )
    own = dict(model.named_parameters())
    if is_sharded(model):
        if any(parameter is not own[name] for name, parameter in parameters.items()):
            raise MethodRefused("A sharded model cannot be called with other parameters than its own.")
        own = {}  # they stay in their places, where they are gathered
    given = {id(p): parameters[name] for name, p in own.items() if name in parameters}
    return replaced(model, given | {id(buffer): buffer.clone() for buffer in model.buffers()})


def descend(parameters: Parameters, loss: Tensor, *, rate: float, differentiable: bool) -> dict[str, Tensor]:
    """Take one gradient step θ − rate·∇loss and return the result as new tensors; a negative `rate` ascends.

    differentiable: whether a later gradient flows through ∇loss too (second order) or through θ alone (first order). Raises
    MethodRefused if it is to, and cannot.
    """
    gradients = torch.autograd.grad(
        loss, list(parameters.values()), create_graph=differentiable, retain_graph=True, allow_unused=True
    )
    if differentiable:
        check_differentiable(gradients)
    moves = zip(parameters.items(), gradients, strict=True)
    return {name: p if g is None else p - rate * (g if differentiable else g.detach()) for (name, p), g in moves}


def flat_gradient(loss: Tensor, parameters: Parameters) -> Tensor:
    """Compute ∇loss as one vector (p,) over all parameters in their order; 0 where the loss does not depend on a parameter.

    Of sharded parameters each rank gets the part of the gradient that belongs to its parts.
    """
    if any(map(is_part, parameters.values())):
        return _flat_gradient_of_parts(loss, parameters)
    gradients = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True)
    filled = (torch.zeros_like(p) if g is None else g for p, g in zip(parameters.values(), gradients, strict=True))
    return torch.cat([g.reshape(-1) for g in filled])


def _flat_gradient_of_parts(loss: Tensor, parameters: Parameters) -> Tensor:
    """Compute `flat_gradient` by a backward pass, in which the gradients of sharded parameters are summed over the ranks."""
    for parameter in parameters.values():
        parameter.grad = None
    loss.backward()  # type: ignore[no-untyped-call]  # torch leaves Tensor.backward untyped
    found = [torch.zeros_like(local(p)) if p.grad is None else local(p.grad) for p in parameters.values()]
    for parameter in parameters.values():
        parameter.grad = None
    return torch.cat([part.reshape(-1) for part in found])


def clip_gradient(gradient: Tensor, max_norm: float, *, sharded: bool = False) -> Tensor:
    """Scale a gradient (p,) down to the norm `max_norm` if it is longer. sharded: each rank has a part of it."""
    length = norm_of_parts(gradient) if sharded else gradient.norm()
    scale: Tensor = max_norm / length.clamp(min=max_norm)
    return gradient * scale


def clip_loss_gradient(loss: Tensor, parameters: Parameters, max_norm: float) -> Tensor:
    """Return a scalar with the value of `loss`, whose gradient over all parameters is clipped as by `clip_gradient`."""
    gradient = clip_gradient(flat_gradient(loss, parameters), max_norm)
    weights = torch.cat([p.reshape(-1) for p in parameters.values()])
    return (
        loss.detach() + ((weights - weights.detach()) * gradient).sum()
    )  # `@` would round the gradient to bf16 in autocast


@torch.no_grad()
def step_along(parameters: Iterable[Tensor], direction: Tensor, *, rate: float) -> None:
    """Update θ ← θ − rate·direction in place.

    direction: one vector (p,) in the parameters' order; of sharded ones this rank's parts (`flat_gradient`).
    """
    start = 0
    for p in map(local, parameters):
        p -= rate * direction[start : start + p.numel()].view_as(p)
        start += p.numel()
