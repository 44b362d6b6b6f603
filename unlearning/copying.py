"""Copying a user's network as it comes, with what `copy.deepcopy` refuses."""

import copy
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import TypeVar

from torch import Tensor, nn

N = TypeVar("N", bound=nn.Module)


def copy_whole(network: N, *, instead: Mapping[int, object] = MappingProxyType({})) -> N:
    """Copy a network that is not sharded, with its weights, its modes and what requires a gradient.

    `copy.deepcopy` alone refuses tensors that a forward pass has left in a module, as old weight norm does and modules that keep
    their last features; they are copied without their history. Attributes that cannot be copied at all, such as locks, are shared.
    instead: what stands in the copy in place of objects, by their `id`.
    """
    memo: dict[int, object] = {
        id(value): value.detach().clone()
        for value in _attributes(network)
        if isinstance(value, Tensor) and value.grad_fn is not None
    } | dict(instead)
    try:
        return copy.deepcopy(network, dict(memo))
    except _UNCOPIED:
        shared = {id(value): value for value in _attributes(network) if not _can_be_copied(value, memo)}
        return copy.deepcopy(network, memo | shared)


_UNCOPIED = (TypeError, ValueError, RuntimeError, AttributeError)
"""What `copy.deepcopy` raises for a value that it refuses."""


def _attributes(network: nn.Module) -> Iterator[object]:
    """Yield what the modules hold beside parameters, buffers and one another, and what lies in their lists and dicts."""
    pending: list[object] = []
    for module in network.modules():
        pending += (
            value for name, value in vars(module).items() if name not in ("_parameters", "_buffers", "_modules")
        )
    seen: set[int] = set()
    while pending:
        value = pending.pop()
        if id(value) in seen:  # a list or dict may hold itself
            continue
        seen.add(id(value))
        if isinstance(value, dict):
            pending += value.values()
        elif isinstance(value, list | tuple | set):
            pending += value
        else:
            yield value


def _can_be_copied(value: object, memo: dict[int, object]) -> bool:
    try:
        copy.deepcopy(value, dict(memo))
    except _UNCOPIED:
        return False
    return True
