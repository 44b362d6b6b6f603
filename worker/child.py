"""What a signal handler may set."""

import ctypes
import importlib
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

from billiard import active_children  # type: ignore[import-untyped]  # it ships no types


@dataclass(slots=True)
class Flag:
    """One boolean, and no lock.

    A `threading.Event` has one: a second signal that comes while the handler of the first holds it would wait for it forever,
    in the same thread.
    """

    is_set: bool = False

    def set(self) -> None:
        """Set it, from anywhere."""
        self.is_set = True


PR_SET_PDEATHSIG = 1

stopping = Flag()
"""Set in the child once it shall end its job at the next step boundary."""


def prepare_child(**_: object) -> None:
    """Run first in the child.

    A child that outlived a killed parent would go on with a job that nobody reports on; its lease lapses instead.
    """
    threading.Thread(target=warm_up, daemon=True).start()
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)


def warm_up() -> None:
    """Import what the first job needs (torch: seconds) while the child waits for it."""
    importlib.import_module("worker.run")


@contextmanager
def stoppable() -> Iterator[None]:
    """Let SIGTERM end the job at its next step, not the process at once.

    Set for each job, because the pool sets its own handlers after everything that could run earlier in the child.
    """

    def request_stop(number: int, frame: FrameType | None) -> None:
        stopping.set()

    former = signal.signal(signal.SIGTERM, request_stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, former)


def stop_children(**_: object) -> None:
    """Pass the parent's shutdown on: Celery's own warm shutdown would wait for hours of unlearning."""
    for child in active_children():
        os.kill(child.pid, signal.SIGTERM)
