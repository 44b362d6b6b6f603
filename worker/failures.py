"""Why a run ended without a result, and whether trying again can help: one table."""

import errno
import traceback
from dataclasses import dataclass
from pathlib import PurePath

from ledger.states import Reason
from report.document import InvalidReport
from unlearning.errors import InvalidSpec, InvalidWorkload, MethodRefused, WeightsDamaged, WeightsMissing
from worker.errors import AuditFailed, NoGpu, NoSigningKey, WorkloadError


@dataclass(frozen=True, slots=True)
class Failure:
    """reason: the ledger's code. detail: for a person. retry: whether another try may end better."""

    reason: Reason
    detail: str
    retry: bool


KNOWN: tuple[tuple[type[Exception], Reason], ...] = (
    (WeightsMissing, Reason.WEIGHTS_MISSING),
    (WeightsDamaged, Reason.WEIGHTS_DAMAGED),
    (WorkloadError, Reason.WORKLOAD_FAILED),
    (InvalidWorkload, Reason.WORKLOAD_FAILED),
    (MethodRefused, Reason.METHOD_REFUSED),
    (InvalidSpec, Reason.METHOD_REFUSED),
    (NoSigningKey, Reason.SIGNING_FAILED),
    (AuditFailed, Reason.AUDIT_FAILED),
    (InvalidReport, Reason.UNEXPECTED),
)
"""Errors raised on purpose: their messages are written to be shown, and trying again changes nothing."""


def failure(error: Exception) -> Failure:
    """Say what an exception that ended a run means.

    The message of an error that nobody foresaw may quote a sample's ID; only its type and its place are passed on.
    """
    for kind, reason in KNOWN:
        if isinstance(error, kind):
            return Failure(reason, str(error), retry=False)
    if isinstance(error, NoGpu):
        return Failure(Reason.GPU_LOST, str(error), retry=True)
    if is_out_of_memory(error):
        return Failure(Reason.OUT_OF_MEMORY, f"Out of memory ({type(error).__name__}) {place(error)}.", retry=True)
    if is_gpu_lost(error):
        return Failure(Reason.GPU_LOST, f"The GPU failed ({type(error).__name__}) {place(error)}.", retry=True)
    if is_disk_full(error):
        return Failure(Reason.DISK_FULL, f"No space is left on the worker's disk, {place(error)}.", retry=True)
    return Failure(Reason.UNEXPECTED, f"{type(error).__name__} {place(error)}.", retry=True)


def is_out_of_memory(error: Exception) -> bool:
    """Tell whether the processor's or a device's memory ran out, without importing torch to ask."""
    return (
        isinstance(error, MemoryError)
        or type(error).__name__ == "OutOfMemoryError"
        or any(said in str(error) for said in ("can't allocate memory", "out of memory"))
    )


def is_gpu_lost(error: Exception) -> bool:
    """Tell whether the device failed, without importing torch to ask; libraries upon CUDA raise a RuntimeError that says so."""
    return type(error).__name__ == "AcceleratorError" or (
        isinstance(error, RuntimeError) and str(error).startswith(("CUDA error", "cuDNN error", "NCCL error"))
    )


def is_disk_full(error: Exception) -> bool:
    """Tell whether a write failed for lack of space or quota."""
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)


def place(error: Exception) -> str:
    """Say where an error was raised: `at file.py:12`."""
    frames = traceback.extract_tb(error.__traceback__)
    return f"at {PurePath(frames[-1].filename).name}:{frames[-1].lineno}" if frames else "at an unknown place"
