"""Batches: a few samples on their way through a model. Their inputs may be any tree of tensors."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from unlearning.errors import UnsupportedWorkload

Inputs = Any
"""A tensor (n, …), or a dict, tuple or list of such inputs, to any depth, such as tokens with their mask."""


class Batch(NamedTuple):
    """A batch of n samples. inputs: a tensor (n, …) or a tree of such tensors. targets: (n, …)."""

    inputs: Inputs
    targets: Tensor

    @property
    def size(self) -> int:
        """The number of samples."""
        return len(self.targets)

    @property
    def device(self) -> torch.device:
        """Where its tensors are."""
        return self.targets.device

    def map(self, change: Callable[[Tensor], Tensor]) -> "Batch":
        """Return the batch with each tensor changed."""
        return Batch(map_tree(change, self.inputs), change(self.targets))

    def map_inputs(self, change: Callable[[Tensor], Tensor]) -> "Batch":
        """Return the batch with each tensor of the inputs changed."""
        return Batch(map_tree(change, self.inputs), self.targets)

    def take(self, index: Tensor | slice | int) -> "Batch":
        """Return the samples that `index` names: (k,) int64, (n,) bool, a slice, or one number, for a sample without a batch."""
        return self.map(lambda tensor: tensor[index])

    def batches(self, size: int) -> Iterator["Batch"]:
        """Yield the samples in their order, in batches of `size`; the last may be smaller."""
        for start in range(0, max(1, self.size), size):
            yield self.take(slice(start, start + size))

    def to(self, device: torch.device) -> "Batch":
        """Copy the batch to `device`, without waiting for what a GPU is computing; see `sent`."""
        return self.map(lambda tensor: sent(tensor, device))


def joined_batch(*parts: Batch) -> Batch:
    """Join batches, in their order. Raises UnsupportedWorkload if their inputs differ in structure or in a sample's shape."""
    inputs = [part.inputs for part in parts]
    return Batch(map_tree(_joined, *inputs), torch.cat([part.targets for part in parts]))


def map_tree(change: Callable[..., Tensor], inputs: Inputs, *others: Inputs) -> Inputs:
    """Return inputs with each tensor changed, given the tensors of `others` at the same place.

    Mappings of any class, such as Hugging Face's BatchEncoding, become dicts. Raises UnsupportedWorkload for anything but tensors
    in dicts, tuples and lists, and for others of another structure.
    """
    if isinstance(inputs, Tensor):
        return change(inputs, *others)
    if not isinstance(inputs, Mapping | tuple | list):
        raise UnsupportedWorkload(
            f"The inputs of a sample set hold a {type(inputs).__name__}; they must be tensors with one row a sample, in dicts, "
            "tuples or lists if there are several. Convert it, e.g. with torch.as_tensor(…)."
        )
    if any(not isinstance(other, type(inputs)) or len(other) != len(inputs) for other in others):
        raise UnsupportedWorkload("The inputs of two batches differ in structure; each sample's must be built alike.")
    if isinstance(inputs, Mapping):
        if any(inputs.keys() != other.keys() for other in others):
            raise UnsupportedWorkload("The inputs of two batches have different keys; each sample's must be the same.")
        return {key: map_tree(change, value, *(other[key] for other in others)) for key, value in inputs.items()}
    entries = [map_tree(change, *entry) for entry in zip(inputs, *others, strict=True)]
    return type(inputs)(*entries) if hasattr(inputs, "_fields") else type(inputs)(entries)


def leaves(inputs: Inputs, *, name: str = "inputs") -> Iterator[tuple[str, Tensor]]:
    """Yield each tensor of checked inputs with its place, such as `inputs['mask']`."""
    if isinstance(inputs, Tensor):
        yield name, inputs
        return
    for key, value in inputs.items() if isinstance(inputs, Mapping) else enumerate(inputs):
        yield from leaves(value, name=f"{name}[{key!r}]")


def all_tensors(batch: Batch) -> Iterator[tuple[str, Tensor]]:
    """Yield each tensor of a batch, of the inputs and then the targets, with its place."""
    yield from leaves(batch.inputs)
    yield "targets", batch.targets


def raw_bytes(tensor: Tensor) -> NDArray[np.uint8]:
    """Return the memory of a tensor by rows, (n, bytes), one row for a scalar; also of bfloat16, which NumPy lacks."""
    rows = tensor.shape[0] if tensor.dim() else 1
    memory: NDArray[np.uint8] = tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy()
    return memory.reshape(rows, memory.size // max(1, rows))


def flat_inputs(batch: Batch) -> Tensor:
    """Return each sample's inputs as one vector of float32, (n, d)."""
    parts = [tensor.reshape(batch.size, -1).float() for _, tensor in leaves(batch.inputs)]
    return parts[0] if len(parts) == 1 else torch.cat(parts, 1)


def same_inputs(first: Inputs, second: Inputs) -> bool:
    """Return whether two inputs have the same structure and equal tensors; anything else in them is compared by `==`."""
    if first is second:
        return True
    if isinstance(first, Tensor) or isinstance(second, Tensor):
        return isinstance(first, Tensor) and isinstance(second, Tensor) and torch.equal(first, second)
    if isinstance(first, Mapping) and isinstance(second, Mapping):
        return first.keys() == second.keys() and all(same_inputs(value, second[key]) for key, value in first.items())
    if isinstance(first, tuple | list) and isinstance(second, tuple | list):
        return len(first) == len(second) and all(map(same_inputs, first, second))
    return bool(first == second)


def sent(tensor: Tensor, device: torch.device) -> Tensor:
    """Move a tensor that was drawn on the CPU to `device`, without waiting for what a GPU is computing.

    An ordinary copy to a GPU waits until all work before it is done; so does indexing its tensors by one of the CPU.
    """
    if device.type != "cuda" or tensor.is_cuda:
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


def _joined(*tensors: Tensor) -> Tensor:
    shapes = {tensor.shape[1:] for tensor in tensors}
    if len(shapes) > 1:
        raise UnsupportedWorkload(
            f"Batches with samples of the shapes {' and '.join(str(tuple(shape)) for shape in sorted(shapes))} cannot be joined. "
            "Pad every sample to one length, such as Hugging Face's padding='max_length', and give the model a mask."
        )
    return torch.cat(tensors)
