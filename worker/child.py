"""The worker's child process, which runs the jobs: how it is prepared, and how it is stopped."""

import ctypes
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from types import FrameType

from billiard import active_children, current_process  # type: ignore[import-untyped]  # it ships no types

PR_SET_PDEATHSIG = 1
"""prctl's option: the signal that the kernel sends to a process when its parent dies."""


@dataclass(slots=True)
class StopSignal:
    """One boolean without a lock, to be set by a signal handler.

    A `threading.Event` has a lock. A second signal that arrives while the handler of the first one holds it would wait for ever, in
    the same thread.
    """

    is_set: bool = False

    def set(self) -> None:
        """Set it, from anywhere."""
        self.is_set = True


stop_signal = StopSignal()
"""Set in the child when it has to end its job at the next step boundary."""


def prepare_child(**_: object) -> None:
    """Let this child start processes of its own, and have the kernel kill it when its parent dies.

    A child that outlived its parent would continue a job that nobody reports on. Instead, its lease expires.
    """
    # Celery's children are daemonic, which may not start processes; those that read data end with the child by themselves.
    current_process().daemon = False
    die_with_parent()


def die_with_parent() -> None:
    """Have the kernel kill this process when its parent dies; only Linux can."""
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)


@contextmanager
def stop_on_sigterm() -> Iterator[None]:
    """Have SIGTERM end the job at its next step, instead of the process at once.

    Use it for each job: the pool sets its own handlers after everything that could run earlier in the child.
    """

    def request_stop(number: int, frame: FrameType | None) -> None:
        stop_signal.set()

    former = signal.signal(signal.SIGTERM, request_stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, former)


_loaded: dict[str, tuple[int, int]] = {}
"""The files of the code that this process has loaded, each with its time of change (ns) and size when it was loaded."""


def note_loaded_code() -> None:
    """Note the files of the modules that were loaded since the last call. Call it right after something is imported."""
    for module in list(sys.modules.values()):
        path = getattr(module, "__file__", None)
        if path is not None and path not in _loaded:
            stamp = _stamp(path)
            if stamp is not None:
                _loaded[path] = stamp


def code_has_changed() -> bool:
    """Return whether a file of the code that this process has loaded is another one now, or gone.

    An owner who mends a factory expects the next job to use it. Modules are not imported anew in the same process: what they
    registered elsewhere, as PyTorch's operators are, would be there twice.
    """
    return any(_stamp(path) != stamp for path, stamp in _loaded.items())


def _stamp(path: str) -> tuple[int, int] | None:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size


def stop_children(**_: object) -> None:
    """Pass the parent's shutdown on to its children. Celery's own warm shutdown would wait for hours of unlearning."""
    for child in active_children():
        with suppress(ProcessLookupError):  # One that has just ended must not keep the signal from the others.
            os.kill(child.pid, signal.SIGTERM)
