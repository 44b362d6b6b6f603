"""Errors of the worker, and what each error that ends an attempt means for its job.

WorkerError
├── JobError                  ends the attempt; it carries the ledger's reason, and whether another try may help
│   ├── WorkloadError           the operator's: the registered workload cannot be used
│   │   ├── WorkloadNotAllowed    its module is not under the allow-list
│   │   ├── WorkloadFailed        its factory raised, or did not return a workload
│   │   └── SamplesMissing        it lacks samples that it was registered with
│   ├── MethodFailed            the method's or the model's: it raises an error that would come again
│   ├── ResumedMethodFailed     it does so after going on from a checkpoint, in which the cause may lie
│   ├── NoSigningKey            the operator's: results are to be signed, and no key is usable
│   ├── AuditFailed             the methods': the policy's last one, which is not exact, failed its audit
│   └── NoGpu                   transient: the worker is to use a GPU, and there is none now
├── RankFailed                a process of the job failed or was ended; it carries what its failure means
├── GpuLost                   transient: the device failed, and this process cannot use it any more
├── ShuttingDown              transient: the worker is stopping; the job goes back to the queue
└── DeliveryError             transient: a webhook could not be delivered now
    ├── AddressForbidden        its host has no address that may be reached
    └── Unreachable             no connection, or no response in time
"""

import errno
import json
import re
import traceback
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import PurePath
from types import FrameType
from typing import ClassVar
from urllib.parse import quote

from connectors.storage import StorageError
from ledger.db import DATABASE_AWAY
from ledger.errors import LedgerError
from ledger.states import Reason
from report.document import InvalidReport
from unlearning.errors import (
    InvalidSpec,
    InvalidWorkload,
    MethodRefused,
    NotFinite,
    TrainerFault,
    WeightsDamaged,
    WeightsMisfit,
    WeightsMissing,
)

MAX_MESSAGE_LENGTH = 2000
"""Characters of a message by the owner's own code that are passed on."""

MIN_ID_WITHIN_WORDS = 8
"""An ID of at least so many characters is taken out of a message also where it is part of a longer word."""


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


class MethodFailed(JobError):
    """A method raised an error that would come again, or left a model that is not finite."""

    reason = Reason.METHOD_FAILED


class ResumedMethodFailed(JobError):
    """A method that went on from a checkpoint raised an error that would come again. The next try begins without the checkpoint."""

    reason = Reason.UNEXPECTED
    retry = True


class NoSigningKey(JobError):
    """EXPUNGE_SIGNING_KEYS holds no private key that is registered and not revoked, or EXPUNGE_MODEL_SIGNING_KEY names none."""

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


class RankFailed(WorkerError):
    """A process of a job that runs on several failed, or was ended. failure: what that means for the attempt."""

    def __init__(self, failure: "Failure") -> None:
        super().__init__(failure)
        self.failure = failure


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

    def __post_init__(self) -> None:
        """Replace what PostgreSQL does not hold: an owner's message may have NUL or half of a surrogate pair in it."""
        storable = self.detail.replace("\0", "?").encode(errors="replace").decode()
        object.__setattr__(self, "detail", storable)


LIBRARY_ERRORS: tuple[tuple[type[Exception], Reason], ...] = (
    (StorageError, Reason.STORAGE_FAILED),
    (WeightsMissing, Reason.WEIGHTS_MISSING),
    (WeightsDamaged, Reason.WEIGHTS_DAMAGED),
    (WeightsMisfit, Reason.WORKLOAD_FAILED),
    (InvalidWorkload, Reason.WORKLOAD_FAILED),
    (MethodRefused, Reason.METHOD_REFUSED),
    (InvalidSpec, Reason.METHOD_REFUSED),
    (NotFinite, Reason.METHOD_FAILED),
    (TrainerFault, Reason.METHOD_FAILED),
    (InvalidReport, Reason.UNEXPECTED),
)
"""Reasons for the errors that the library raises on purpose. Their messages may be shown. Another try changes nothing, unless their
cause may pass, as that of a data set that is read over a network.
"""

LIBRARIES = ("torch", "torchvision", "numpy", "scipy", "sklearn", "safetensors")
"""Packages that never see a sample's ID, so that their messages may be shown."""

NETWORK_LIBRARIES = ("requests", "urllib3", "httpx", "httpcore", "aiohttp", "botocore", "fsspec")
"""Packages whose errors may pass: they read data over a network."""

LASTING_OS_ERRORS = (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError, FileExistsError)
"""Errors of the operating system that come again; the others may pass."""


def classify(error: Exception, *, owned: Collection[str] = (), ids: Collection[str] = ()) -> Failure:
    """Classify an exception that ended an attempt.

    An error that may pass is tried again: memory, the disk, the GPU, a network. `detail` has the message of an error that the
    owner's own code raised, which no data subject wrote, without `ids`, those of samples and subjects. Of an unforeseen error of
    ours, whose message may quote an ID, it has the type and the place alone. owned: prefixes of the owner's modules.
    """
    if isinstance(error, RankFailed):
        return error.failure
    origin = error.__cause__ if isinstance(error, JobError) and isinstance(error.__cause__, Exception) else error
    name, place = type(origin).__name__, _place(origin)
    if _is_out_of_memory(origin):
        return Failure(Reason.OUT_OF_MEMORY, f"Out of memory ({name}) {place}.", retry=True)
    if _is_gpu_lost(origin):
        return Failure(Reason.GPU_LOST, f"The GPU failed ({name}) {place}.", retry=True)
    if _is_disk_full(origin):
        return Failure(Reason.DISK_FULL, f"No space is left on the worker's disk, {place}.", retry=True)
    if isinstance(error, JobError):
        # The other messages are ours, with counts that may look like IDs.
        message = _without_ids(str(error), ids) if isinstance(error, WorkloadError) else str(error)
        return Failure(error.reason, message, retry=error.retry or _may_pass(origin))
    for kind, reason in LIBRARY_ERRORS:
        if isinstance(error, kind):
            return Failure(reason, str(error), retry=_may_pass(error))
    return Failure(Reason.UNEXPECTED, describe(error, owned=owned, ids=ids), retry=True)


def as_method_failure(
    error: Exception, *, owned: Collection[str] = (), ids: Collection[str] = ()
) -> MethodFailed | None:
    """Turn an error of a method or its audit that would come again into a MethodFailed; None for any other.

    Others are those that may pass, and those that stop the run: a cancellation, a lost lease, the worker's shutdown.
    """
    if isinstance(error, MethodFailed):
        return error  # of another process of the job
    if isinstance(error, (LedgerError, ShuttingDown, JobError, RankFailed, StorageError, *DATABASE_AWAY)) or _may_pass(
        error
    ):
        return None
    failure = classify(error, owned=owned, ids=ids)
    if failure.reason is Reason.UNEXPECTED or isinstance(error, NotFinite | TrainerFault):
        return MethodFailed(failure.detail)
    return None


def is_owners(error: Exception, owned: Collection[str]) -> bool:
    """Return whether an error went through the owner's code: `describe` shows its message then."""
    return any(
        _is_under(str(frame.f_globals.get("__name__", "")), owned)
        for frame, _ in traceback.walk_tb(error.__traceback__)
    )


def describe(error: Exception, *, owned: Collection[str] = (), ids: Collection[str] = ()) -> str:
    """Describe an error for the operator: its type, its place, and its message if no sample's ID can be in it."""
    name, place = type(error).__name__, _place(error, owned)
    if not _is_shown(error, owned):
        return f"{name} {place}."
    message = _without_ids(str(error).strip(), ids)[:MAX_MESSAGE_LENGTH]
    return f"{name} {place}: {message}" if message else f"{name} {place}."


def _is_shown(error: Exception, owned: Collection[str]) -> bool:
    """Return whether the owner's code or a library raised the error, not code of ours that handles sample IDs."""
    modules = [str(frame.f_globals.get("__name__", "")) for frame, _ in traceback.walk_tb(error.__traceback__)]
    if not modules:
        return False
    raised_by_torch = type(error) is RuntimeError  # its C++ code has no frame, and nothing of ours raises it
    return (
        raised_by_torch
        or _is_under(modules[-1], (*owned, *LIBRARIES))
        or any(_is_under(m, owned) for m in modules[-8:])
    )


def _is_under(module: str, prefixes: Collection[str]) -> bool:
    return any(module == prefix or module.startswith(f"{prefix}.") for prefix in prefixes)


def _without_ids(message: str, ids: Collection[str]) -> str:
    """Replace each ID in a message, in whichever way it is written there.

    A short ID may be part of any word or number, so it counts only where no letter or digit is beside it. `_` ends an ID as `-`,
    `/`, `.` and `:` do.
    """
    spans = sorted(
        found.span()
        for each in ids
        for written in _spellings(each)
        if written in message
        for found in re.finditer(_pattern(written, anywhere=len(each) >= MIN_ID_WITHIN_WORDS), message)
    )
    kept, end = list[str](), 0
    for start, stop in spans:
        if start >= end:  # else it overlaps the one before
            kept += [message[end:start], "(an ID)"]
        end = max(end, stop)
    return "".join([*kept, message[end:]])


def _spellings(name: str) -> set[str]:
    """Return an ID as it is, and as Python, JSON and a URL write it."""
    return {name, repr(name)[1:-1], json.dumps(name)[1:-1], quote(name, safe="", errors="replace")}


def _pattern(written: str, *, anywhere: bool) -> str:
    return re.escape(written) if anywhere else rf"(?<![^\W_]){re.escape(written)}(?![^\W_])"


def _may_pass(error: Exception) -> bool:
    """Return whether the same call may succeed later: memory, the disk, the GPU, or what is read over a network."""
    return any(
        _is_out_of_memory(each)
        or _is_gpu_lost(each)
        or (isinstance(each, OSError) and not isinstance(each, LASTING_OS_ERRORS))
        or type(each).__module__.partition(".")[0] in NETWORK_LIBRARIES
        or isinstance(each, DATABASE_AWAY)
        for each in _chain(error)
    )


def _chain(error: BaseException | None) -> Iterator[Exception]:
    """Yield an error and its causes."""
    for _ in range(10):
        if not isinstance(error, Exception):
            return
        yield error
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)


def _is_out_of_memory(error: BaseException) -> bool:
    """Return whether the host's or a device's memory ran out, without importing torch."""
    return (
        isinstance(error, MemoryError)
        or type(error).__name__ == "OutOfMemoryError"
        or any(text in str(error) for text in ("can't allocate memory", "out of memory"))
    )


def _is_gpu_lost(error: BaseException) -> bool:
    """Return whether the device failed, without importing torch; libraries based on CUDA raise a RuntimeError with such a text."""
    return type(error).__name__ == "AcceleratorError" or (
        isinstance(error, RuntimeError) and str(error).startswith(("CUDA error", "cuDNN error", "NCCL error"))
    )


def _is_disk_full(error: BaseException) -> bool:
    """Return whether a write failed for lack of space or quota."""
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)


def _place(error: BaseException, owned: Collection[str] = ()) -> str:
    """Say where an error was raised: `at file.py:12`, and if a library raised it, which of the owner's lines called it."""
    frames = list(traceback.walk_tb(error.__traceback__))
    if not frames:
        return "at an unknown place"
    last, theirs = _line(*frames[-1]), owners_line(error, owned)
    return f"at {last}" if theirs in (None, last) else f"at {theirs}, in {last}"


def owners_line(error: BaseException, owned: Collection[str]) -> str | None:
    """Return the last line of the owner's code that an error went through, `file.py:12`; None if it went through none."""
    frames = traceback.walk_tb(error.__traceback__)
    theirs = [_line(*each) for each in frames if _is_under(str(each[0].f_globals.get("__name__", "")), owned)]
    return theirs[-1] if theirs else None


def _line(frame: FrameType, number: int) -> str:
    return f"{PurePath(frame.f_code.co_filename).name}:{number}"
