"""One child process of the stack: started with a log, waited for until ready, stopped within a bound."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from expunge.errors import StartFailed

TETHER = Path(__file__).with_name("watchdog.py")
TAIL_LINES = 20


@dataclass(frozen=True, kw_only=True, slots=True)
class Program:
    """What to run and how to know that it is ready."""

    name: str
    command: tuple[str, ...]
    log: Path
    ready: Callable[[], bool] | Path
    """A question, or the file that the program makes when it is ready."""
    environment: Mapping[str, str] | None = field(default=None, repr=False)
    user: str | None = None
    ready_within: float = 60.0
    """Seconds until it must be ready."""
    stop_signal: signal.Signals = signal.SIGTERM
    stop_within: float = 15.0
    """Seconds it has to end after the stop signal, before it is killed."""
    orphan_signal: signal.Signals = signal.SIGKILL
    """What it receives when this process dies without stopping it."""


@dataclass(frozen=True, slots=True)
class Child:
    """A program that runs, in a process group of its own, so that a Ctrl-C on the terminal does not reach it first."""

    program: Program
    process: "subprocess.Popen[bytes]"


def start(program: Program) -> Child:
    """Start the program, its output appended to its log."""
    user = (program.user,) if program.user else ()
    if isinstance(program.ready, Path):
        program.ready.unlink(missing_ok=True)  # An earlier run's file says nothing about this one.
    tether = (sys.executable, "-I", str(TETHER), str(os.getpid()), program.orphan_signal.name, *user, "--")
    with program.log.open("ab") as log:
        process = subprocess.Popen(
            [*tether, *program.command],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env=None if program.environment is None else {**os.environ, **program.environment},
        )
    return Child(program, process)


def await_ready(child: Child) -> None:
    """Wait until the child is ready. Raises StartFailed, with its log's tail, when it ends first or takes too long."""
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
    """Ask the child to end, wait, and kill what is left of its group."""
    if child.process.poll() is None:
        child.process.send_signal(child.program.stop_signal)
        with suppress(subprocess.TimeoutExpired):
            child.process.wait(child.program.stop_within)
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(child.process.pid, signal.SIGKILL)
    child.process.wait()


def tail(log: Path) -> str:
    """Quote the last lines of a log, with where the rest is."""
    try:
        lines = log.read_text(errors="replace").splitlines()[-TAIL_LINES:]
    except FileNotFoundError:
        return ""
    return "\n" + "\n".join(f"  | {line}" for line in lines) + f"\n  (the whole log: {log})"
