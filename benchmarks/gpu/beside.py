"""Processes beside the command's own: the tests marked gpu, and training with a compiler, which may fail or take too long."""

import json
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from benchmarks.gpu.session import Session

ROOT = Path(__file__).parents[2]


@dataclass(kw_only=True, slots=True, eq=False)
class Aside:
    """A process beside the command's own. ends: monotonic seconds after which it is ended. output: the file of what it prints."""

    process: subprocess.Popen[bytes]
    output: Path
    ends: float


def start(session: Session, name: str, arguments: list[str], *, seconds: float) -> Aside:
    """Start Python beside this process, in the repository's root."""
    path = session.folder / f"{name}.txt"
    with path.open("wb") as file:
        process = subprocess.Popen([sys.executable, *arguments], stdout=file, stderr=subprocess.STDOUT, cwd=ROOT)
    return Aside(process=process, output=path, ends=time.monotonic() + seconds)


def ended(aside: Aside) -> tuple[int | None, str]:
    """Wait for a process until its time is over, then end it; return its exit status (None: its time was over) and its output."""
    try:
        status: int | None = aside.process.wait(timeout=max(0.0, aside.ends - time.monotonic()))
    except subprocess.TimeoutExpired:
        end(aside)
        status = None
    return status, aside.output.read_text(errors="replace")


def end(aside: Aside) -> None:
    """End a process that still runs."""
    if aside.process.poll() is None:
        aside.process.kill()
        aside.process.wait()


def gpu_tests(*, rehearsal: bool) -> list[str]:
    """Return the arguments that run the tests marked gpu, without the repository's own settings and fixtures, which need more.

    A rehearsal, which runs none of them, collects those of one file.
    """
    marked = sorted(
        str(path.relative_to(ROOT)) for path in (ROOT / "tests").rglob("test_*.py") if "mark.gpu" in path.read_text()
    )
    settings = ["--noconftest", "--config-file=/dev/null", f"--rootdir={ROOT}", "-p", "no:cacheprovider"]
    return ["-m", "pytest", "-q", "-m", "gpu", *settings, *(marked[-1:] if rehearsal else marked)]


def finish(session: Session, tests: Aside, compiler: Aside) -> None:
    """Wait for the processes aside, and note the tests' outcome and what the compiler gains."""
    status, output = ended(tests)
    missing = "No module named pytest" in output
    session.facts["gpu_tests"] = {
        "state": "pytest is not installed" if missing else "time over" if status is None else f"exit status {status}",
        "output": output[-3000:],
    }
    status, output = ended(compiler)
    lines = [line for line in output.splitlines() if line.startswith("{")]
    session.facts["compiler"] = json.loads(lines[-1]) if lines else {"error": output[-2000:], "exit_status": status}
    if status or (not missing and session.facts["gpu_tests"]["state"] not in ("exit status 0", "time over")):
        raise AssertionError("a process beside failed; its output is in the results")
