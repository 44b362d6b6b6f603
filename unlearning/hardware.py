"""What the hardware computes fastest: batched inference, the memory layout of images, and bf16 where it pays."""

import contextlib
import functools
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import ParamSpec, TypeVar

import torch
from torch import Tensor, nn

from unlearning.data.batches import Batch, Inputs
from unlearning.data.loading import READ_SIZE
from unlearning.data.objectives import Answers, Objective, answers
from unlearning.data.samples import SampleSet
from unlearning.sharding import is_sharded, local
from unlearning.specs.training import Precision
from unlearning.steps import Steps, each_step_in

N = TypeVar("N", bound=nn.Module)
P = ParamSpec("P")
T = TypeVar("T")

_CPU_BATCH = 64
"""Samples. The output of a layer for so few is still in the cache when the next layer reads it (`benchmarks.speed`)."""
_GPU_BATCH = 1024
"""Samples. Not measured [ours]."""


@torch.no_grad()
def batched_answers(
    objective: Objective,
    model: nn.Module,
    samples: Batch | SampleSet,
    *,
    device: torch.device | None = None,
    max_size: int | None = None,
    after_each: Callable[[Answers], None] | None = None,
) -> Answers:
    """Compute a model's answers to n samples in batches of at most 64 (CPU, stored sets) or 1,024 (GPU) samples and `max_size`.

    device: where to compute; by default where the samples are. after_each: gets the answers to each batch. The results equal
    those of one large batch if the model is in evaluation mode, where no sample depends on the others of its batch.
    """
    parts = []
    for batch in inference_batches(model, samples, device=device, max_size=max_size):
        parts.append(answers(objective, model, batch))
        if after_each is not None:
            after_each(parts[-1])
    return Answers(
        torch.cat([part.losses for part in parts]),
        None if parts[0].outputs is None else torch.cat([part.outputs for part in parts if part.outputs is not None]),
        torch.cat([part.targets for part in parts]),
    )


def inference_batches(
    model: nn.Module, samples: Batch | SampleSet, *, device: torch.device | None = None, max_size: int | None = None
) -> Iterator[Batch]:
    """Yield samples in batches of the size and layout that `batched_answers` computes; device, max_size: as there."""
    device = device or samples.device
    layout = input_layout(model)
    size = min(max_size or _GPU_BATCH, _CPU_BATCH if device.type == "cpu" else _GPU_BATCH)
    if isinstance(samples, SampleSet) and samples.stored:
        size = min(size, READ_SIZE)
    for batch in samples.batches(size):
        yield batch.to(device).map_inputs(layout)


def channels_last(inputs: Tensor) -> Tensor:
    """Lay out images (n, c, h, w) channels-last, which makes convolutions faster (`benchmarks.speed`); leave others as they are."""
    return inputs.contiguous(memory_format=torch.channels_last) if inputs.dim() == 4 else inputs


def input_layout(network: nn.Module) -> Callable[[Tensor], Tensor]:
    """Return `channels_last` if the network's own 2-d convolutions are laid out so, else the identity."""
    weights = (local(layer.weight) for layer in _convolutions(network))
    if any(w.is_contiguous(memory_format=torch.channels_last) and not w.is_contiguous() for w in weights):
        return channels_last
    return lambda inputs: inputs


@torch.no_grad()
def in_fastest_layout(network: N, inputs: Inputs) -> N:
    """Lay out a network channels-last, in place, if its inputs are images and it runs so on these two; return it.

    A network that reshapes by `view` may not run so, and stays as it is, as does a sharded one. It must be in evaluation mode.
    """
    convolutions = _convolutions(network)
    if not isinstance(inputs, Tensor) or inputs.dim() != 4 or not convolutions or is_sharded(network):
        return network
    given = [layer.weight.data for layer in convolutions]
    for layer in convolutions:
        layer.weight.data = channels_last(layer.weight.data)
    try:
        network(channels_last(inputs.to(given[0].device)))
    except RuntimeError:
        for layer, weight in zip(convolutions, given, strict=True):
            layer.weight.data = weight
    return network


def _convolutions(network: nn.Module) -> list[nn.Conv2d | nn.ConvTranspose2d]:
    """List the 2-d convolutions whose weight is a parameter; weight norm may compute it from others."""
    layers = [layer for layer in network.modules() if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d)]
    return [layer for layer in layers if "weight" in layer._parameters]


def autocast(device: torch.device, precision: Precision) -> AbstractContextManager[object]:
    """Return a context that computes in bf16 if `precision` is "bfloat16", or if it is "auto" and the hardware gains from bf16.

    "auto" uses bf16 on CUDA devices and CPUs with instructions for it (Ampere and later; AMX, AVX-512 BF16). Others emulate bf16,
    which is slower than float32. Weights are converted anew in each forward pass: a copy that autocast keeps would be out of
    date once an optimiser has moved them, and without a gradient if the first pass needed none.
    """
    if precision == "float32" or (precision == "auto" and not _gains_from_bfloat16(device)):
        return contextlib.nullcontext()
    return torch.autocast(device.type, dtype=torch.bfloat16, cache_enabled=False)


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
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return device.type == "cpu" and bool(torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported())
