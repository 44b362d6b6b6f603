"""Forward passes of many samples through a model in evaluation mode, laid out and cut as the machine does them fastest."""

from typing import TypeVar

import torch
from torch import Tensor, nn

from unlearning.data.objectives import Forward

Thing = TypeVar("Thing", nn.Module, Tensor)

_ON_A_PROCESSOR = 64
"""Samples at once: what a layer makes of so few is still in the cache when the next one reads it (`benchmarks.speed`)."""
_ON_A_GPU = 1024
"""Not measured [ours]."""


def fast(thing: Thing) -> Thing:
    """A module (in place) or images (n, c, h, w) laid out channels-last, in which convolutions are faster (`benchmarks.speed`)."""
    if isinstance(thing, nn.Module):
        return thing.to(memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]  # typed for tensors
    return thing.contiguous(memory_format=torch.channels_last) if thing.dim() == 4 else thing


def pieces(inputs: Tensor, *, device: torch.device, most: int = _ON_A_GPU) -> tuple[Tensor, ...]:
    """The inputs (n, …) in their order, in parts of at most `most` samples, and on a processor 64, on a GPU 1,024."""
    return torch.split(inputs, min(most, _ON_A_PROCESSOR if device.type == "cpu" else _ON_A_GPU))


def in_pieces(model: nn.Module) -> Forward:
    """The forward pass, (n, …) to (n, …), piece by piece.

    The answers are the same as at once, as long as no sample looks at another: the model is to be in evaluation mode.
    """
    return lambda inputs: torch.cat([model(fast(part)) for part in pieces(inputs, device=inputs.device)])
