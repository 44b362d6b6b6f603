"""Where bf16 pays, and how to run in it."""

import contextlib
from contextlib import AbstractContextManager

import torch

from unlearning.recipe import Precision


def autocast(device: torch.device, precision: Precision) -> AbstractContextManager[object]:
    """A context that computes in bf16 where asked for, or where "auto" finds hardware that gains from it.

    "auto" means bf16 on CUDA devices that have it and on processors with AMX; elsewhere bf16 is emulated and slower.
    """
    if precision == "float32" or (precision == "auto" and not _gains_from_bfloat16(device)):
        return contextlib.nullcontext()
    return torch.autocast(device.type, dtype=torch.bfloat16)


def _gains_from_bfloat16(device: torch.device) -> bool:
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported())
    return device.type == "cpu" and bool(torch.cpu._is_amx_tile_supported())
