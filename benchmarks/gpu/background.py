"""Processes in the background of the command: the tests marked gpu, and training with a compiler, which may fail or hang."""

import json
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.gpu.session import Budget, Session

ROOT = Path(__file__).parents[2]


@dataclass(kw_only=True, slots=True, eq=False)
class Background:
    """A process in the background. ends: monotonic seconds after which it is killed. output: the file of what it prints."""

    process: subprocess.Popen[bytes]
    output: Path
    ends: float


def start(session: Session, name: str, arguments: list[str], *, seconds: float) -> Background:
    """Start Python in the background, in the repository's root; it has this many seconds."""
    path = session.folder / f"{name}.txt"
    with path.open("wb") as file:
        process = subprocess.Popen([sys.executable, *arguments], stdout=file, stderr=subprocess.STDOUT, cwd=ROOT)
    return Background(process=process, output=path, ends=time.monotonic() + seconds)


def wait(background: Background) -> tuple[int | None, str]:
    """Wait for a process until its time is over, then kill it; return its exit status (None: its time was over) and its output."""
    try:
        status: int | None = background.process.wait(timeout=max(0.0, background.ends - time.monotonic()))
    except subprocess.TimeoutExpired:
        kill(background)
        status = None
    return status, background.output.read_text(errors="replace")


def kill(background: Background) -> None:
    """Kill a process that still runs."""
    if background.process.poll() is None:
        background.process.kill()
        background.process.wait()


def gpu_tests(*, dry_run: bool) -> list[str]:
    """Return the arguments that run the tests marked gpu, without the repository's own settings and fixtures, which need more.

    A dry run collects those of one file alone.
    """
    marked = sorted(
        str(path.relative_to(ROOT)) for path in (ROOT / "tests").rglob("test_*.py") if "mark.gpu" in path.read_text()
    )
    settings = ["--noconftest", "--config-file=/dev/null", f"--rootdir={ROOT}", "-p", "no:cacheprovider"]
    return ["-m", "pytest", "-q", "-m", "gpu", *settings, *(marked[-1:] if dry_run else marked)]


def collect(processes: Sequence[Background], session: Session, _: Budget) -> None:
    """Wait for the tests and the compiler, and note the tests' outcome and what the compiler gains.

    Raises AssertionError if one of them failed.
    """
    tests, compiler = processes
    status, output = wait(tests)
    missing = "No module named pytest" in output
    session.facts["gpu_tests"] = {
        "state": "pytest is not installed" if missing else "time over" if status is None else f"exit status {status}",
        "output": output[-3000:],
    }
    failed = bool(status) and not missing
    status, output = wait(compiler)
    lines = [line for line in output.splitlines() if line.startswith("{")]
    session.facts["compiler"] = json.loads(lines[-1]) if lines else {"error": output[-2000:], "exit_status": status}
    if status or failed:
        raise AssertionError("a background process failed; its output is in the results")
