import errno
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from expunge.errors import StartFailed
from expunge.stack.process import Program, await_ready, rotate, start, stop
from tests.fixtures.waiting import PATIENCE, alive, await_that

STUBBORN = (
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); time.sleep(600)"
)


def python(tmp_path: Path, code: str, **more: object) -> Program:
    log = tmp_path / "program.log"
    settings = {"ready": lambda: log.exists() and "up" in log.read_text(), "ready_within": PATIENCE, **more}
    return Program(name="the program", command=(sys.executable, "-c", code), log=log, **settings)  # type: ignore[arg-type]


def test_a_program_is_waited_for_and_stopped(tmp_path: Path) -> None:
    child = start(python(tmp_path, "import time; print('up', flush=True); time.sleep(600)"))
    await_ready(child)
    stop(child)
    assert child.process.returncode == -signal.SIGTERM


def test_a_program_that_ignores_the_stop_signal_is_killed_in_its_time(tmp_path: Path) -> None:
    child = start(python(tmp_path, STUBBORN, stop_within=0.2))
    await_ready(child)
    stop(child)
    assert child.process.returncode == -signal.SIGKILL


def test_a_program_that_ends_too_early_is_reported_with_the_tail_of_its_log(tmp_path: Path) -> None:
    child = start(python(tmp_path, "raise SystemExit('no such disk')"))
    with pytest.raises(StartFailed, match=r"the program ended with status 1 before it was ready\.\n  \| no such disk"):
        await_ready(child)


def test_a_program_that_is_never_ready_is_given_up(tmp_path: Path) -> None:
    child = start(python(tmp_path, "import time; time.sleep(600)", ready_within=0.2))
    with pytest.raises(StartFailed, match=r"not ready after 0\.2 s"):
        await_ready(child)
    stop(child)


def test_the_ready_file_of_an_earlier_run_does_not_speak_for_the_next(tmp_path: Path) -> None:
    ready = tmp_path / "program.ready"
    makes_it = python(tmp_path, f"open({str(ready)!r}, 'w').close(); import time; time.sleep(600)", ready=ready)
    child = start(makes_it)
    await_ready(child)
    stop(child)
    child = start(python(tmp_path, "raise SystemExit('no such disk')", ready=ready))
    with pytest.raises(StartFailed, match="before it was ready"):
        await_ready(child)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux tells a child of its parent's death")
def test_a_child_ends_when_its_parent_is_killed(tmp_path: Path) -> None:
    parent_code = f"""
import sys; from pathlib import Path
from expunge.stack.process import Program, start
program = Program(name="child", command=(sys.executable, "-c", {STUBBORN!r}), log=Path({str(tmp_path / "log")!r}), ready=bool)
print(start(program).process.pid, flush=True); sys.stdin.read()
"""
    parent = subprocess.Popen(
        [sys.executable, "-c", parent_code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=Path(__file__).parents[3],
    )
    with parent:
        assert parent.stdout is not None
        child = psutil.Process(int(parent.stdout.readline()))
        os.kill(parent.pid, signal.SIGKILL)
    await_that(lambda: alive([child]) == [], "the child to end with its parent")


def test_a_long_log_is_rotated_while_the_program_writes_on(tmp_path: Path) -> None:
    go = tmp_path / "go"
    code = f"import os, time; print('up', flush=True)\nwhile not os.path.exists({str(go)!r}): time.sleep(0.01)\nprint('on')"
    child = start(python(tmp_path, code))
    await_ready(child)
    log = child.program.log
    rotate(log, max_bytes=2)
    assert (log.read_text(), (tmp_path / "program.log.1").read_text()) == ("", "up\n")
    go.touch()
    child.process.wait(PATIENCE)
    assert log.read_text() == "on\n"
    stop(child)


def test_as_many_older_logs_are_kept_as_asked_for(tmp_path: Path) -> None:
    log = tmp_path / "program.log"
    for text in ("first", "second", "third"):
        log.write_text(text)
        rotate(log, max_bytes=1, kept=2)
    rotate(log, max_bytes=1, kept=2)  # is empty now
    kept = {path.name: path.read_text() for path in tmp_path.iterdir()}
    assert kept == {"program.log": "", "program.log.1": "third", "program.log.2": "second"}


def test_a_full_disk_costs_no_older_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = tmp_path / "program.log"
    for text in ("first", "second"):
        log.write_text(text)
        rotate(log, max_bytes=1)
    log.write_text("third")

    def fill(source: Path, target: Path) -> None:
        target.write_text("th")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(shutil, "copyfile", fill)
    for _ in range(3):
        with pytest.raises(OSError, match="No space"):
            rotate(log, max_bytes=1)
    kept = {path.name: path.read_text() for path in tmp_path.iterdir()}
    assert kept == {"program.log": "third", "program.log.1": "second", "program.log.2": "first"}
