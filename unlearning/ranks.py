"""Ranks: the N processes that run one job together, each with a part of every batch.

All ranks run the same code with the same seed, draw the same batches and keep the same weights. Only the work of a pass is divided:
`divide` gives each rank some rows of the batch, and puts the results of all together. Two operations connect a rank's rows with
what all ranks have; each is the gradient of the other, so that derivatives of any order are those of one process:

    copied   all ranks' tensor → a rank's own pass; its gradient is summed over the ranks
    summed   ranks' own tensors → their sum on all ranks; its gradient is copied

So whatever a method does with a loss or a gradient (clip, harmonise, differentiate again) stays as it is, and comes after the
reduction. With one process, which never joins others, nothing here is used.
"""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from functools import reduce
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from unlearning.data.batches import leaves, map_tree, sent
from unlearning.errors import UnsupportedWorkload
from unlearning.networks import Replaced, batch_norm_layers, replaced
from unlearning.sharding import is_sharded

T = TypeVar("T")

_TIMEOUT = timedelta(days=7)
"""How long a rank waits for the others. One that ends takes all with it, and one that hangs is the watchdog's."""


def count() -> int:
    """Return how many ranks run this job: 1 in a process that has not joined others."""
    return dist.get_world_size() if dist.is_initialized() else 1


def own_rank() -> int:
    """Return the number of this rank, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


@contextlib.contextmanager
def joined(device: torch.device) -> Iterator[None]:
    """Join the ranks that torchrun has started; it says by environment variables who they are.

    On the way out the ranks wait for each other. A rank that left sooner would have the others wait for ever.
    """
    if device.type == "cuda":
        torch.cuda.set_device(device)
    dist.init_process_group("cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo", timeout=_TIMEOUT)
    try:
        yield
        dist.barrier()
    finally:
        dist.destroy_process_group()


def agreed(value: float) -> float:
    """Return the first rank's value on all ranks. A decision taken on one that is computed by each may else differ by rounding."""
    if count() == 1:
        return value
    said = torch.tensor(value, dtype=torch.float64)
    dist.broadcast(said, 0)
    return float(said)


def broadcast(value: T) -> T:
    """Return the first rank's value on all ranks: anything that can be pickled."""
    if count() == 1:
        return value
    said = [value]
    dist.broadcast_object_list(said, 0)
    return said[0]


def by_first(act: Callable[[], T]) -> T:
    """Let the first rank do something, such as writing a file, and return its result on all ranks."""
    return broadcast(act() if own_rank() == 0 else None)  # type: ignore[return-value]  # the first one's is broadcast


def by_turns(acts: Sequence[Callable[[], T]]) -> list[T]:
    """Do what does not depend on one another, each by a rank of its own if there are several, and return all results on all ranks.

    There are as many acts as ranks, or fewer. They must not use `divide` or any other function that all ranks call together.
    """
    if count() == 1:
        return [act() for act in acts]
    found: list[Any] = [None] * count()
    dist.all_gather_object(found, acts[own_rank()]() if own_rank() < len(acts) else None)
    return found[: len(acts)]


@torch.no_grad()
def take_first(model: nn.Module) -> None:
    """Give the first rank's weights and buffers to the models of all ranks, in place."""
    if count() > 1:
        for tensor in model.state_dict().values():
            said = tensor.contiguous()
            dist.broadcast(said, 0)
            tensor.copy_(said)


def divide(compute: Callable[[Any, Any], tuple[Tensor, ...]], forward: Any, given: Any) -> tuple[Tensor, ...]:
    """Compute rows, each of one sample, from a forward pass and a batch of n samples, a rank some of them; return all, (n, …) each.

    compute: (forward, given) → tensors (n, …), no row of which depends on other samples, but by batch norm, whose statistics are
    those of the whole batch. forward: a network, or its pass with other parameters. given: a batch, or its inputs. What compute
    draws at random differs from rank to rank. A batch with fewer samples than ranks is computed by each, and the mean is taken, so
    that all have the same to the last bit.
    """
    n, size, own = len(next(leaves(given))[1]), count(), own_rank()
    draw = int(torch.randint(2**62, ()))  # of the state that all ranks have in common
    copied = _copied_pass(forward)
    if n < size:
        with _random(draw):
            return tuple(_summed(found / size) for found in compute(copied, given))
    start, stop = n * own // size, n * (own + 1) // size
    with _random(draw + own), _whole_batch_norm(copied.network):
        found = compute(copied, map_tree(lambda tensor: tensor[start:stop], given))
    return tuple(_rows(tensor, start=start, stop=stop, of=n) for tensor in found)


@contextlib.contextmanager
def _random(seed: int) -> Iterator[None]:
    """Draw from a seed of its own; the process's state, in which all ranks agree, does not change."""
    devices = [torch.cuda.current_device()] if torch.cuda.is_available() else []
    with torch.random.fork_rng(devices):
        torch.manual_seed(seed)
        yield


def _rows(found: Tensor, *, start: int, stop: int, of: int) -> Tensor:
    """Put each rank's rows into one tensor, (of, …), on all of them."""
    if found.dim() == 0 or len(found) != stop - start:
        raise UnsupportedWorkload(
            f"The objective gives a tensor of shape {tuple(found.shape)} for {stop - start} samples; it must give one row a sample."
        )
    before, after = (found.new_zeros(number, *found.shape[1:]) for number in (start, of - stop))
    return _summed(torch.cat([before, found, after]))


def _copied_pass(forward: nn.Module | Replaced) -> Replaced:
    """Return the pass with copies of its parameters, whose gradients are summed over the ranks. A sharded network sums its own."""
    if isinstance(forward, nn.Module):
        forward = replaced(forward, {} if is_sharded(forward) else {id(p): p for p in forward.parameters()})
    moving = {id(tensor): tensor for tensor in forward.tensors.values() if tensor.requires_grad}
    if not moving or not torch.is_grad_enabled():
        return forward
    copies = dict(zip(moving, _copied(*moving.values()), strict=True))
    return replace(forward, tensors={name: copies.get(id(t), t) for name, t in forward.tensors.items()})


def _summed(given: Tensor) -> Tensor:
    total: Tensor = _Summed.apply(given)  # type: ignore[no-untyped-call]  # torch leaves it untyped
    return total


def _copied(*given: Tensor) -> tuple[Tensor, ...]:
    copies: tuple[Tensor, ...] = _Copied.apply(*given)  # type: ignore[no-untyped-call]  # torch leaves it untyped
    return copies


class _Summed(torch.autograd.Function):
    """Sum a tensor over the ranks."""

    @staticmethod
    def forward(ctx: Any, given: Tensor) -> Tensor:
        total = given.detach().clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (copy,) = _copied(gradient)
        return copy


class _Copied(torch.autograd.Function):
    """Hand tensors that all ranks have to each rank's own pass. Their gradients are summed over the ranks, all at once.

    A tensor that no rank's pass has used has no gradient, as in one process: an optimiser does not move it.
    """

    @staticmethod
    def forward(ctx: Any, *given: Tensor) -> tuple[Tensor, ...]:
        ctx.set_materialize_grads(False)
        ctx.like = [(tensor.shape, tensor.dtype, tensor.device) for tensor in given]
        return tuple(tensor.view_as(tensor) for tensor in given)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        dtype = reduce(torch.promote_types, (dtype for _, dtype, _ in ctx.like), torch.float32)
        device = ctx.like[0][2]
        parts = [
            torch.zeros(shape.numel(), dtype=dtype, device=device) if g is None else g.reshape(-1).to(device, dtype)
            for g, (shape, _, _) in zip(gradients, ctx.like, strict=True)
        ]
        used = sent(torch.tensor([g is not None for g in gradients], dtype=dtype), device)
        total = _summed(torch.cat([*parts, used]))
        *sums, users = torch.split(total, [*map(len, parts), len(parts)])
        return tuple(
            None if g is None and not users[number] else found.view(shape).to(place, kind)
            for number, (g, found, (shape, kind, place)) in enumerate(zip(gradients, sums, ctx.like, strict=True))
        )


@contextlib.contextmanager
def _whole_batch_norm(network: nn.Module) -> Iterator[None]:
    """Let batch norm normalise by the statistics of the whole batch, of which this rank has some rows."""
    layers: Sequence[Any] = batch_norm_layers(network)
    normalising = any(layer.training or layer.running_mean is None for layer in layers)
    with _WholeBatchNorm() if normalising else contextlib.nullcontext():
        yield


class _WholeBatchNorm(TorchFunctionMode):
    """Replaces torch's batch norm, whose synchronised form exists on GPUs alone and has no second derivative."""

    def __torch_function__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        return (_batch_norm if function is functional.batch_norm else function)(*args, **(kwargs or {}))


def _batch_norm(
    inputs: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """Do as `functional.batch_norm`, with mean and variance over the rows of all ranks (Chan, Golub, LeVeque, 1983)."""
    with torch._C.DisableTorchFunction():
        if not training:
            return functional.batch_norm(inputs, running_mean, running_var, weight, bias, False, momentum, eps)
        x = inputs if inputs.dtype == torch.float64 else inputs.float()
        across, shape = [0, *range(2, x.dim())], [1, -1, *[1] * (x.dim() - 2)]
        mean = x.mean(across)
        spread = (x - mean.view(shape)).pow(2).sum(across)
        own = torch.cat([mean, spread, mean.new_tensor([x.numel() / len(mean)])])[None]
        rank = own_rank()
        (table,) = _copied(_rows(own, start=rank, stop=rank + 1, of=count()))
        means, spreads, sizes = torch.split(table, [len(mean), len(mean), 1], 1)
        total = sizes.sum()
        mean = (sizes * means).sum(0) / total
        var = (spreads + sizes * (means - mean).pow(2)).sum(0) / total
        if running_mean is not None and running_var is not None:
            with torch.no_grad():
                running_mean.lerp_(mean.to(running_mean), momentum)
                running_var.lerp_((var * total / (total - 1)).to(running_var), momentum)
        found = (x - mean.view(shape)) * (var + eps).rsqrt().view(shape)
        if weight is not None:
            found = found * weight.view(shape)
        if bias is not None:
            found = found + bias.view(shape)
        normalised: Tensor = found.to(inputs.dtype)
        return normalised
