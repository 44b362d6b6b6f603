"""A user's network as a module: copying it, passes with other weights, what its training leaves as it is, whether its weights are
finite, and kernels that can be differentiated.
"""

import contextlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd

from unlearning.copying import copy_whole
from unlearning.errors import MethodRefused
from unlearning.sharding import copy_sharded, gathered, is_sharded, local, on_all_ranks

N = TypeVar("N", bound=nn.Module)

_NO_SECOND_DERIVATIVE = ("is not implemented", "differentiate twice", "ouble backward", "once_differentiable")
"""What torch says where an operation cannot be differentiated, or not twice."""


def device_of(network: nn.Module, default: torch.device) -> torch.device:
    """Return the device of a network's parameters, or the default for one without any."""
    return next((parameter.device for parameter in network.parameters()), default)


def copy_network(network: N) -> N:
    """Copy a network, whole or sharded, with its weights, its modes and what requires a gradient."""
    return copy_sharded(network) if is_sharded(network) else copy_whole(network)


def frozen_copy(network: N) -> N:
    """Copy a network as `copy_network` does, in evaluation mode and with no parameter that requires a gradient."""
    return copy_network(network).eval().requires_grad_(False)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Replaced:
    """A network's forward pass with other tensors, by name, in place of its own."""

    network: nn.Module
    tensors: dict[str, Tensor]

    def __call__(self, *given: Any, **named: Any) -> Any:  # noqa: D102  (as a module is called)
        return functional_call(self.network, self.tensors, given, named, tie_weights=False)


def replaced(network: nn.Module, others: Mapping[int, Tensor]) -> Replaced:
    """Return a network's forward pass with `others` in place of the parameters and buffers whose `id` they are given by."""
    # Each tensor once for each module that holds it, as tied weights need. `functional_call` alone would also name it once for each
    # name of a module that is used twice, and then leave the replacement in the module.
    tensors = {
        f"{prefix}.{name}".lstrip("."): others[id(tensor)]
        for prefix, module in network.named_modules()
        for name, tensor in (*module._parameters.items(), *module._buffers.items())
        if tensor is not None and id(tensor) in others
    }
    return Replaced(network=network, tensors=tensors)


def batch_norm_layers(network: nn.Module) -> list[nn.Module]:
    """List the layers that normalise a sample by the other samples of its batch."""
    return [layer for layer in network.modules() if isinstance(layer, _BatchNorm)]


def kernels(network: nn.Module) -> list[nn.Parameter]:
    """List the weights of all convolutions, each once, that are parameters of their own and that training moves."""
    own = (layer._parameters.get("weight") for layer in network.modules() if isinstance(layer, _ConvNd))
    return [weight for weight in dict.fromkeys(own) if weight is not None and weight.requires_grad]


def square_kernels(network: nn.Module) -> list[nn.Parameter]:
    """List those of them that have equal sides of at least 2."""
    return [kernel for kernel in kernels(network) if kernel.ndim > 3 and kernel.shape[-1] == kernel.shape[-2] > 1]


def moving_batch_norm(network: nn.Module) -> list[nn.Module]:
    """List the batch norm layers whose statistics move in training: those that the network's own `train()` puts in training mode.

    An owner who fine-tunes keeps some in evaluation mode by overriding `train`.
    """
    layers = batch_norm_layers(network)
    if not layers:
        return []
    mode, modes = network.training, [(module, module.training) for module in network.modules()]
    network.train()
    moving = [layer for layer in layers if layer.training]
    network.train(mode)  # an owner's `train` may do more than set modes
    for module, mode in modes:
        module.training = mode
    return moving


def frozen_share(network: nn.Module) -> float:
    """Compute the share of the network's parameters that require no gradient, 0 to 1."""
    sizes = [(p.numel(), p.requires_grad) for p in network.parameters()]
    return sum(size for size, trained in sizes if not trained) / max(1, sum(size for size, _ in sizes))


def is_finite(network: nn.Module) -> bool:
    """Return whether all parameters that require a gradient are finite. Frozen ones, which no method moves, may be masks of −∞.

    Of a sharded network all ranks must ask together: the answer is that of all parts.
    """
    finite = all(bool(local(p).isfinite().all()) for p in network.parameters() if p.requires_grad)
    return on_all_ranks(finite) if is_sharded(network) else finite


def frozen_tensors(network: nn.Module) -> dict[str, Tensor]:
    """Return what training does not move, by its names: parameters that require no gradient, and the statistics of batch norm that
    stays in evaluation mode.
    """
    moving = {id(layer) for layer in moving_batch_norm(network)}
    found: dict[str, Tensor] = {}
    for prefix, module in network.named_modules():
        fixed = isinstance(module, _BatchNorm) and id(module) not in moving
        held = [*module._parameters.items(), *(module._buffers.items() if fixed else ())]
        found |= {f"{prefix}.{name}": t for name, t in held if t is not None and not t.requires_grad}
    return found


@torch.no_grad()
def take_frozen(network: N, original: nn.Module) -> N:
    """Copy into a new network what training does not move (`frozen_tensors`), in place, and return it."""
    others = {
        f"{prefix}.{name}": tensor
        for prefix, module in original.named_modules()
        for name, tensor in (*module._parameters.items(), *module._buffers.items())
        if tensor is not None
    }
    for name, tensor in frozen_tensors(network).items():
        tensor.copy_(gathered(others[name]))
    return network


@contextlib.contextmanager
def differentiable_kernels(network: nn.Module) -> Iterator[None]:
    """Let a gradient flow through recurrent layers in evaluation mode, where cuDNN has none."""
    frozen = any(isinstance(module, nn.RNNBase) and not module.training for module in network.modules())
    with torch.backends.cudnn.flags(enabled=False) if frozen else contextlib.nullcontext():
        yield


@contextlib.contextmanager
def twice_differentiable_kernels(network: nn.Module) -> Iterator[None]:
    """Choose kernels with a second derivative: for attention the one of plain products, for recurrent layers those without cuDNN.

    Raises MethodRefused where an operation has no second derivative in any kernel.
    """
    recurrent = any(isinstance(module, nn.RNNBase) for module in network.modules())
    with contextlib.ExitStack() as stack:
        stack.enter_context(sdpa_kernel(SDPBackend.MATH))
        if recurrent:
            stack.enter_context(torch.backends.cudnn.flags(enabled=False))
        try:
            yield
        except (RuntimeError, NotImplementedError) as error:
            if not any(text in str(error) for text in _NO_SECOND_DERIVATIVE):
                raise
            raise _no_second_derivative(str(error).splitlines()[0]) from error


def check_differentiable(gradients: Iterable[Tensor | None]) -> None:
    """Raise MethodRefused if a gradient went through an operation that says of itself to be differentiable once.

    `torch.autograd.grad` would pass over it in silence, and the second derivative would be wrong. Costs a walk over the graph.
    """
    pending = [gradient.grad_fn for gradient in gradients if gradient is not None]
    seen: set[object] = set()
    while pending:
        node = pending.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if node.name() == "torch::autograd::Error":
            raise _no_second_derivative("an operation of it is marked as once differentiable.")
        pending += [following for following, _ in node.next_functions]


def _no_second_derivative(reason: str) -> MethodRefused:
    return MethodRefused(
        f'The model cannot be differentiated twice: {reason} Use the order "first", or a method that takes plain gradients, '
        "such as IEU."
    )
