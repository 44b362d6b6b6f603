"""Where bf16 pays, and how to run in it."""

import contextlib
import functools
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import ParamSpec, TypeVar

import torch

from unlearning.specs.training import Precision
from unlearning.task import Outcome, Steps

P = ParamSpec("P")
T = TypeVar("T")


def autocast(device: torch.device, precision: Precision) -> AbstractContextManager[object]:
    """A context that computes in bf16 where asked for, or where "auto" finds hardware that gains from it.

    "auto" means bf16 on CUDA devices that have it and on processors with instructions for it (AMX, AVX-512 BF16); elsewhere bf16 is
    emulated and slower.
    """
    if precision == "float32" or (precision == "auto" and not _gains_from_bfloat16(device)):
        return contextlib.nullcontext()
    return torch.autocast(device.type, dtype=torch.bfloat16)


def _gains_from_bfloat16(device: torch.device) -> bool:
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported())
    return device.type == "cpu" and bool(torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported())


def in_float32(function: Callable[P, T]) -> Callable[P, T]:
    """Let a function compute in float32 whatever surrounds it: for what is measured, where bf16's 8 bits would make ties."""

    @functools.wraps(function)
    def within(*args: P.args, **kwargs: P.kwargs) -> T:
        with torch.autocast("cpu", enabled=False), torch.autocast("cuda", enabled=False):
            return function(*args, **kwargs)

    return within


def mixed(steps: Steps, *, device: torch.device, precision: Precision) -> Steps:
    """Run each step of a generator in `autocast`, which is left again at each yield."""
    try:
        while True:
            with autocast(device, precision):
                try:
                    progress = next(steps)
                except StopIteration as end:
                    outcome: Outcome = end.value
                    return outcome
            yield progress
    finally:
        steps.close()
