"""A child process: started with a log, awaited until ready, stopped within a bound."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from expunge.errors import StartFailed

WATCHDOG = Path(__file__).with_name("watchdog.py")
TAIL_LINES = 20

MAX_LOG_BYTES = 50_000_000
"""Of a log, before it is rotated."""

MAX_OLDER_LOGS = 3
"""How many older logs are left."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Program:
    """A command to run as a child process, and when it counts as ready."""

    name: str
    command: tuple[str, ...]
    log: Path
    ready: Callable[[], bool] | Path
    """A function that returns whether the program is ready, or the file that it creates when it is."""
    environment: Mapping[str, str] | None = field(default=None, repr=False)
    user: str | None = None
    ready_within: float = 60.0
    """Seconds until it must be ready."""
    stop_signal: signal.Signals = signal.SIGTERM
    stop_within: float = 15.0
    """Seconds from the stop signal until it is killed."""
    orphan_signal: signal.Signals = signal.SIGKILL
    """The signal that it receives if this process dies without stopping it."""


@dataclass(frozen=True, slots=True)
class Child:
    """A running program. It has its own process group, so Ctrl-C on the terminal reaches only this process."""

    program: Program
    process: "subprocess.Popen[bytes]"


def start(program: Program) -> Child:
    """Start the program. Its output is appended to its log."""
    user = (program.user,) if program.user else ()
    if isinstance(program.ready, Path):
        program.ready.unlink(missing_ok=True)  # It may be an earlier run's.
    watchdog = (sys.executable, "-I", str(WATCHDOG), str(os.getpid()), program.orphan_signal.name, *user, "--")
    with program.log.open("ab") as log:
        process = subprocess.Popen(
            [*watchdog, *program.command],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env=None if program.environment is None else {**os.environ, **program.environment},
        )
    return Child(program, process)


def await_ready(child: Child) -> None:
    """Wait until the child is ready. Raises StartFailed with its log's tail if it ends first or takes too long."""
    program, limit = child.program, time.monotonic() + child.program.ready_within
    ready = program.ready.exists if isinstance(program.ready, Path) else program.ready
    while not ready():
        status = child.process.poll()
        if status is not None:
            raise StartFailed(f"{program.name} ended with status {status} before it was ready.{tail(program.log)}")
        if time.monotonic() > limit:
            raise StartFailed(f"{program.name} was not ready after {program.ready_within:g} s.{tail(program.log)}")
        time.sleep(0.05)


def stop(child: Child) -> None:
    """Send the stop signal, wait, and kill what is left of the process group."""
    if child.process.poll() is None:
        child.process.send_signal(child.program.stop_signal)
        with suppress(subprocess.TimeoutExpired):
            child.process.wait(child.program.stop_within)
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(child.process.pid, signal.SIGKILL)
    child.process.wait()


def tail(log: Path) -> str:
    """Quote a log's last lines and name its file."""
    try:
        lines = log.read_text(errors="replace").splitlines()[-TAIL_LINES:]
    except FileNotFoundError:
        return ""
    return "\n" + "\n".join(f"  | {line}" for line in lines) + f"\n  (the whole log: {log})"


def rotate(log: Path, *, max_bytes: int = MAX_LOG_BYTES, kept: int = MAX_OLDER_LOGS) -> None:
    """Move a log that is longer than `max_bytes` to `<log>.1`, the older ones to `.2` and so on, and delete the oldest.

    The program keeps its log open, so the log is copied and truncated; the program appends, so it goes on at the new end. What it
    writes in between is lost. Raises OSError, and then changes nothing.
    """
    if not log.exists() or log.stat().st_size <= max_bytes:
        return
    copy = log.with_name(f"{log.name}.copy")
    try:
        shutil.copyfile(log, copy)
    except OSError:  # A full disk must cost no older log.
        copy.unlink(missing_ok=True)
        raise
    for number in range(kept - 1, 0, -1):
        with suppress(FileNotFoundError):
            older(log, number).replace(older(log, number + 1))
    copy.replace(older(log, 1))
    os.truncate(log, 0)


def older(log: Path, number: int) -> Path:
    """Return the path of an older log; 1 is the newest of them."""
    return log.with_name(f"{log.name}.{number}")
