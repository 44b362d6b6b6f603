"""Sharding: each rank keeps a part of every parameter, for a model that does not fit one device (FSDP2 of PyTorch).

The parameters of a block are gathered when a pass comes to it and dropped after it, so a device holds its part of the model and one
block whole. Gradients are summed over the ranks, and each rank keeps its part. `unlearning.ranks` divides the rows of a pass as it
does for whole models. What cannot be done is to call the network with other parameters, as second derivatives need.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from unlearning.copying import copy_whole
from unlearning.errors import UnsupportedWorkload

N = TypeVar("N", bound=nn.Module)

Blocks = bool | Sequence[type[nn.Module]]
"""What a workload shards: nothing, everything by the usual blocks, or everything with the modules of these classes as blocks."""

_SHARDED = "_expunge_sharded"


@dataclass(frozen=True, slots=True, eq=False)
class _Sharded:
    """What a sharded network remembers, because torch makes no copy of one. empty: the network whole, without content."""

    empty: nn.Module
    blocks: Blocks
    device: torch.device


def place(network: N, blocks: Blocks, device: torch.device) -> N:
    """Bring a network onto this process's device, in place: whole, or its part if it is to be sharded and there are several ranks.

    Raises UnsupportedWorkload if it has no such blocks, or if two of them share a parameter.
    """
    several = dist.is_initialized() and dist.get_world_size() > 1
    if blocks and several:
        return _shard(network, _Sharded(_unfilled(network, "meta"), blocks, device))
    return network.to(device)


def is_sharded(network: nn.Module) -> bool:
    """Return whether each rank has a part of the network."""
    return hasattr(network, _SHARDED)


@torch.no_grad()
def copy_sharded(network: N) -> N:
    """Copy a sharded network; each rank copies its part."""
    sharded: _Sharded = getattr(network, _SHARDED)
    copied = _shard(_unfilled(sharded.empty, "cpu"), sharded)
    for name, tensor in (*network.named_parameters(), *network.named_buffers()):
        owner, _, last = name.rpartition(".")
        own: Tensor = getattr(copied.get_submodule(owner), last)
        local(own).copy_(local(tensor))
        own.requires_grad_(tensor.requires_grad)
    for one, other in zip(copied.modules(), network.modules(), strict=True):
        one.training = other.training
    return copied  # type: ignore[return-value]  # of the class of `empty`, which is that of the network


def _unfilled(network: nn.Module, device: str) -> nn.Module:
    """Copy a whole network, but not the content of its parameters and buffers."""

    def empty(tensor: Tensor) -> Tensor:
        return torch.empty_like(tensor.detach(), device=device)

    instead: dict[int, object] = {id(tensor): empty(tensor) for tensor in network.buffers()}
    for parameter in network.parameters():
        instead[id(parameter)] = nn.Parameter(empty(parameter), requires_grad=parameter.requires_grad)
    return copy_whole(network, instead=instead)


def _shard(network: N, sharded: _Sharded) -> N:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import FSDPModule, fully_shard

    found = blocks_of(network, sharded.blocks)
    mesh = init_device_mesh(sharded.device.type, (dist.get_world_size(),))
    modules: list[nn.Module] = [*reversed(found), network]
    for module in modules:
        # Of the outermost module torch would else leave the whole parameters in place of their parts after a pass.
        fully_shard(module, mesh=mesh, reshard_after_forward=True)
    for module in network.modules():
        if isinstance(module, FSDPModule):
            module.set_gradient_divide_factor(1.0)  # a sum: each rank's loss is of its own rows
            module.set_force_sum_reduction_for_comms(True)  # else float32 takes an operation that gloo does not have
    setattr(network, _SHARDED, sharded)
    network.register_load_state_dict_pre_hook(_take_parts)  # type: ignore[no-untyped-call]  # torch leaves it untyped
    return network


def blocks_of(network: nn.Module, blocks: Blocks) -> list[nn.Module]:
    """List the modules that are gathered one at a time, outer ones first.

    By default these are the members of module lists, or without lists the network's children. Raises UnsupportedWorkload if there
    is none of the named classes, or if two blocks share a parameter.
    """
    if isinstance(blocks, bool):
        lists = (module for module in network.modules() if isinstance(module, nn.ModuleList))
        found = [block for each in lists for block in each] or list(network.children())
    else:
        found = [module for module in network.modules() if isinstance(module, tuple(blocks))]
    containers = (nn.ModuleList, nn.ModuleDict)
    own = [m for m in found if m is not network and not isinstance(m, containers) and any(True for _ in m.parameters())]
    if not own and not isinstance(blocks, bool):
        classes = ", ".join(each.__name__ for each in blocks)
        raise UnsupportedWorkload(
            f"`sharded` names {classes}; the network has no such module with parameters inside it. Name the class of its blocks."
        )
    names = [name for name, module in network.named_modules() if any(module is each for each in own)]
    owners: dict[int, str] = {}
    for name, parameter in network.named_parameters(remove_duplicate=False):
        block = max((each for each in names if name.startswith(f"{each}.")), key=len, default="")
        if owners.setdefault(id(parameter), block) != block:
            raise UnsupportedWorkload(
                f"{name} is shared between blocks of the network, which are gathered one at a time. Name classes in `sharded` that "
                "do not separate the modules that share it."
            )
    return own


def is_part(tensor: Tensor) -> bool:
    """Return whether this rank has only a part of a tensor."""
    return hasattr(tensor, "to_local")


def local(tensor: Tensor) -> Tensor:
    """Return this rank's part of a tensor, which shares its memory; of one that is not sharded all of it."""
    part: Tensor = tensor.to_local() if is_part(tensor) else tensor  # type: ignore[attr-defined]  # a DTensor
    return part


def gathered(tensor: Tensor) -> Tensor:
    """Return a tensor whole, on all ranks, which must call this together."""
    found: Tensor = tensor.full_tensor() if is_part(tensor) else tensor  # type: ignore[attr-defined]  # a DTensor
    return found


def part_like(tensor: Tensor, like: Tensor) -> Tensor:
    """Return of a whole tensor, which all ranks have, what `like` has of its own."""
    if not is_part(like) or is_part(tensor):
        return tensor
    from torch.distributed.tensor import distribute_tensor

    given = tensor.detach().to(like.device)
    return distribute_tensor(given, like.device_mesh, like.placements, src_data_rank=None)  # type: ignore[attr-defined]  # a DTensor


def of_parts(part: Tensor, like: Tensor) -> Tensor:
    """Return a tensor that is sharded as `like`, of which this rank has this part, (p,)."""
    if not is_part(like):
        return part.view_as(like)
    from torch.distributed.tensor import DTensor

    own: Any = like
    shaped = part.view_as(local(like))
    return DTensor.from_local(
        shaped, own.device_mesh, own.placements, run_check=False, shape=own.shape, stride=own.stride()
    )


def norm_of_parts(vector: Tensor) -> Tensor:
    """Compute the length of a vector of which each rank has a part."""
    total = vector.square().sum()
    dist.all_reduce(total)
    return total.sqrt()


def on_all_ranks(holds: bool) -> bool:
    """Return whether something holds on all ranks, which must call this together."""
    least = torch.tensor(holds, dtype=torch.int64)
    dist.all_reduce(least, dist.ReduceOp.MIN)
    return bool(least)


def whole(value: Any) -> Any:
    """Gather all sharded tensors in nested dicts and lists, one after the other, into the first rank's main memory.

    The other ranks, which must call it too, get empty tensors.
    """
    match value:
        case Tensor() if is_part(value):
            found = gathered(value.detach())
            return found.cpu() if dist.get_rank() == 0 else found.new_empty(0, device="cpu")
        case Mapping():
            return {name: whole(entry) for name, entry in value.items()}
        case list() | tuple():
            return [whole(entry) for entry in value]
    return value


def _take_parts(module: nn.Module, state_dict: dict[str, Any], prefix: str, *further: Any) -> None:
    """Replace whole tensors that are to be loaded into a sharded network by its parts."""
    for name, own in module.state_dict(keep_vars=True).items():
        if isinstance(given := state_dict.get(prefix + name), Tensor) and isinstance(own, Tensor):
            state_dict[prefix + name] = part_like(given, own)


def take_optimiser_parts(optimiser: torch.optim.Optimizer, state: Mapping[str, Any]) -> dict[str, Any]:
    """Replace whole tensors of an optimiser's state that is to be loaded by the parts that its parameters have."""
    parameters = [p for group in optimiser.param_groups for p in group["params"]]

    def parts(number: Any, entry: Any) -> Any:
        return part_like(entry, parameters[number]) if isinstance(entry, Tensor) and entry.dim() else entry

    states = {
        number: {name: parts(number, entry) for name, entry in own.items()} for number, own in state["state"].items()
    }
    return {**state, "state": states}
