"""What the hardware computes fastest: batched inference, the memory layout of images, and bf16 where it pays."""

import contextlib
import functools
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import ParamSpec, TypeVar

import torch
from torch import Tensor, nn

from unlearning.data.objectives import Forward
from unlearning.specs.training import Precision
from unlearning.task import Steps, each_step_in

ModuleOrTensor = TypeVar("ModuleOrTensor", nn.Module, Tensor)
P = ParamSpec("P")
T = TypeVar("T")

_CPU_BATCH = 64
"""Samples. The output of a layer for so few is still in the cache when the next layer reads it (`benchmarks.speed`)."""
_GPU_BATCH = 1024
"""Samples. Not measured [ours]."""


def batched_forward(model: nn.Module) -> Forward:
    """Return the model's forward pass, (n, …) to (n, …), computed in batches of 64 (CPU) or 1,024 (GPU) samples.

    The results equal those of one large batch if the model is in evaluation mode, where no sample depends on the others of its
    batch.
    """
    return lambda inputs: torch.cat([model(channels_last(part)) for part in inference_batches(inputs, inputs.device)])


def inference_batches(inputs: Tensor, device: torch.device, *, max_size: int = _GPU_BATCH) -> tuple[Tensor, ...]:
    """Split the inputs (n, …), in their order, into batches of at most `max_size` samples and at most 64 (CPU) or 1,024 (GPU)."""
    return torch.split(inputs, min(max_size, _CPU_BATCH if device.type == "cpu" else _GPU_BATCH))


def channels_last(value: ModuleOrTensor) -> ModuleOrTensor:
    """Lay out a module (in place) or images (n, c, h, w) channels-last, which makes convolutions faster (`benchmarks.speed`).

    Tensors of other dimensions are returned as they are.
    """
    if isinstance(value, nn.Module):
        return value.to(memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]  # typed for tensors
    return value.contiguous(memory_format=torch.channels_last) if value.dim() == 4 else value


def autocast(device: torch.device, precision: Precision) -> AbstractContextManager[object]:
    """Return a context that computes in bf16 if `precision` is "bfloat16", or if it is "auto" and the hardware gains from bf16.

    "auto" uses bf16 on CUDA devices that support it and on CPUs with instructions for it (AMX, AVX-512 BF16). Other CPUs emulate
    bf16, which is slower than float32.
    """
    if precision == "float32" or (precision == "auto" and not _gains_from_bfloat16(device)):
        return contextlib.nullcontext()
    return torch.autocast(device.type, dtype=torch.bfloat16)


def mixed(steps: Steps, *, device: torch.device, precision: Precision) -> Steps:
    """Run each step of a generator in `autocast`; the caller between two steps is not affected."""
    return each_step_in(steps, lambda: autocast(device, precision))


def in_float32(function: Callable[P, T]) -> Callable[P, T]:
    """Decorate a function that measures, so that it computes in float32 inside `autocast`: bf16, with 8 bits, would make ties."""

    @functools.wraps(function)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> T:
        with torch.autocast("cpu", enabled=False), torch.autocast("cuda", enabled=False):
            return function(*args, **kwargs)

    return wrapper


def _gains_from_bfloat16(device: torch.device) -> bool:
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported())
    return device.type == "cpu" and bool(torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported())
