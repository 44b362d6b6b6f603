"""Errors of the worker, and what each error that ends an attempt means for its job.

WorkerError
├── JobError                  ends the attempt; it carries the ledger's reason, and whether another try may help
│   ├── WorkloadError           the operator's: the registered workload cannot be used
│   │   ├── WorkloadNotAllowed    its module is not under the allow-list
│   │   ├── WorkloadFailed        its factory raised, or did not return a workload
│   │   └── SamplesMissing        it lacks samples that it was registered with
│   ├── NoSigningKey            the operator's: results are to be signed, and no key is usable
│   ├── AuditFailed             the methods': the policy's last one, which is not exact, failed its audit
│   └── NoGpu                   transient: the worker is to use a GPU, and there is none now
├── GpuLost                   transient: the device failed, and this process cannot use it any more
├── ShuttingDown              transient: the worker is stopping; the job goes back to the queue
└── DeliveryError             transient: a webhook could not be delivered now
    ├── AddressForbidden        its host has no address that may be reached
    └── Unreachable             no connection, or no response in time
"""

import errno
import traceback
from dataclasses import dataclass
from pathlib import PurePath
from typing import ClassVar

from ledger.states import Reason
from report.document import InvalidReport
from unlearning.errors import InvalidSpec, InvalidWorkload, MethodRefused, WeightsDamaged, WeightsMissing


class WorkerError(Exception):
    """Base of all errors that the worker raises on purpose."""


class JobError(WorkerError):
    """Ends an attempt. The message is shown to the caller: it holds no sample ID, and says what to do."""

    reason: ClassVar[Reason]
    retry: ClassVar[bool] = False
    """Whether another try may end better without the operator."""


class WorkloadError(JobError):
    """The registered workload cannot be used."""

    reason = Reason.WORKLOAD_FAILED


class WorkloadNotAllowed(WorkloadError):
    """The workload's module is not under the allow-list EXPUNGE_WORKLOADS."""


class WorkloadFailed(WorkloadError):
    """The workload's module or factory raised, or the factory did not return a workload."""


class SamplesMissing(WorkloadError):
    """The workload no longer has samples that the model was registered with."""


class NoSigningKey(JobError):
    """The folder EXPUNGE_SIGNING_KEYS holds no private key that is registered and not revoked."""

    reason = Reason.SIGNING_FAILED


class AuditFailed(JobError):
    """No method of the policy passed its audit, and none is exact by construction; the served model stays as it is."""

    reason = Reason.AUDIT_FAILED


class NoGpu(JobError):
    """The worker is to use a GPU, and CUDA finds none: the last one failed, or its driver is missing."""

    reason = Reason.GPU_LOST
    retry = True


class GpuLost(WorkerError):
    """The device failed during a run, whose end is already written. This process cannot use the device again."""


class ShuttingDown(WorkerError):
    """The worker is stopping; the run ends at a step boundary, and the job goes back to the queue."""


class DeliveryError(WorkerError):
    """A webhook could not be delivered."""


class AddressForbidden(DeliveryError):
    """The host's name leads to no address that may be reached."""


class Unreachable(DeliveryError):
    """No response: an unknown name, no connection, a bad certificate, or a timeout."""


@dataclass(frozen=True, slots=True)
class Failure:
    """Why an attempt failed. reason: the ledger's code. detail: for a person. retry: whether another try may end better."""

    reason: Reason
    detail: str
    retry: bool


LIBRARY_ERRORS: tuple[tuple[type[Exception], Reason], ...] = (
    (WeightsMissing, Reason.WEIGHTS_MISSING),
    (WeightsDamaged, Reason.WEIGHTS_DAMAGED),
    (InvalidWorkload, Reason.WORKLOAD_FAILED),
    (MethodRefused, Reason.METHOD_REFUSED),
    (InvalidSpec, Reason.METHOD_REFUSED),
    (InvalidReport, Reason.UNEXPECTED),
)
"""Reasons for the errors that the library raises on purpose. Their messages may be shown, and another try changes nothing."""


def classify(error: Exception) -> Failure:
    """Classify an exception that ended an attempt.

    The message of an unforeseen error may quote a sample ID, so only its type and its place go into `detail`.
    """
    if isinstance(error, JobError):
        return Failure(error.reason, str(error), retry=error.retry)
    for kind, reason in LIBRARY_ERRORS:
        if isinstance(error, kind):
            return Failure(reason, str(error), retry=False)
    name, place = type(error).__name__, _place(error)
    if _is_out_of_memory(error):
        return Failure(Reason.OUT_OF_MEMORY, f"Out of memory ({name}) {place}.", retry=True)
    if _is_gpu_lost(error):
        return Failure(Reason.GPU_LOST, f"The GPU failed ({name}) {place}.", retry=True)
    if _is_disk_full(error):
        return Failure(Reason.DISK_FULL, f"No space is left on the worker's disk, {place}.", retry=True)
    return Failure(Reason.UNEXPECTED, f"{name} {place}.", retry=True)


def _is_out_of_memory(error: Exception) -> bool:
    """Return whether the host's or a device's memory ran out, without importing torch."""
    return (
        isinstance(error, MemoryError)
        or type(error).__name__ == "OutOfMemoryError"
        or any(text in str(error) for text in ("can't allocate memory", "out of memory"))
    )


def _is_gpu_lost(error: Exception) -> bool:
    """Return whether the device failed, without importing torch; libraries based on CUDA raise a RuntimeError with such a text."""
    return type(error).__name__ == "AcceleratorError" or (
        isinstance(error, RuntimeError) and str(error).startswith(("CUDA error", "cuDNN error", "NCCL error"))
    )


def _is_disk_full(error: Exception) -> bool:
    """Return whether a write failed for lack of space or quota."""
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)


def _place(error: Exception) -> str:
    """Say where an error was raised: `at file.py:12`."""
    frames = traceback.extract_tb(error.__traceback__)
    return f"at {PurePath(frames[-1].filename).name}:{frames[-1].lineno}" if frames else "at an unknown place"
