"""`expunge up` as a person runs it, and the ways in which it ends."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from expunge.embedded.broker import free_port
from expunge.embedded.folder import recall

pytestmark = [pytest.mark.end_to_end, pytest.mark.slow]

PATIENCE = 90.0


@contextmanager
def up(data_dir: Path) -> Iterator["subprocess.Popen[str]"]:
    """The command, in a process group of its own, once it says that it is up."""
    command = [sys.executable, "-m", "expunge.cli", "up", "--data-dir", str(data_dir), "--port", str(free_port())]
    environment = {name: value for name, value in os.environ.items() if name not in ("DATABASE_URL", "REDIS_URL")}
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment, start_new_session=True
    )
    try:
        await_that(lambda: recall(data_dir) is not None or process.poll() is not None, "the stack to be up")
        assert process.poll() is None, process.communicate()[0]
        yield process
    finally:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


def await_that(condition: "object", what: str) -> None:
    limit = time.monotonic() + PATIENCE
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < limit, f"waited in vain for {what}"
        time.sleep(0.05)


def descendants(process: "subprocess.Popen[str]") -> list[psutil.Process]:
    return psutil.Process(process.pid).children(recursive=True)


def alive(processes: list[psutil.Process]) -> list[str]:
    """An ended orphan stays a zombie where no init process collects it."""
    return [
        process.name() for process in processes if process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    ]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_one_signal_stops_everything(tmp_path: Path, number: signal.Signals) -> None:
    with up(tmp_path / "data") as process:
        started = descendants(process)
        assert len(started) >= 6, [child.name() for child in started]
        process.send_signal(number)
        output = process.communicate(timeout=PATIENCE)[0]
        assert process.returncode == 0, output
        assert "Stopped." in output
        assert alive(started) == []
        assert recall(tmp_path / "data") is None


def test_what_a_killed_stack_started_dies_with_it_and_the_next_start_finds_its_data(tmp_path: Path) -> None:
    data_dir = tmp_path / "data"
    with up(data_dir) as process:
        started = descendants(process)
        process.kill()
        output = process.communicate()[0]
        assert "API key" in output
        await_that(lambda: alive(started) == [], "the orphans to end")
        assert recall(data_dir) is None
    with up(data_dir) as process:
        process.send_signal(signal.SIGINT)
        assert "API key" not in process.communicate(timeout=PATIENCE)[0]


def test_a_part_that_is_killed_is_started_again(tmp_path: Path) -> None:
    with up(tmp_path / "data") as process:
        (worker,) = [
            child
            for child in psutil.Process(process.pid).children()
            if "worker.app" in child.cmdline() and "worker" in child.cmdline()
        ]
        worker.kill()

        def back() -> bool:
            children = psutil.Process(process.pid).children()
            return any(child.pid != worker.pid and "worker" in child.cmdline() for child in children)

        await_that(back, "the worker to be back")
        process.send_signal(signal.SIGTERM)
        assert "started again" in process.communicate(timeout=PATIENCE)[0]


def test_the_key_is_stored_nowhere_in_clear(tmp_path: Path) -> None:
    data_dir = tmp_path / "data"
    with up(data_dir) as process:
        process.send_signal(signal.SIGINT)
        output = process.communicate(timeout=PATIENCE)[0]
    (secret,) = {word for word in output.replace("│", " ").replace("=", " ").split() if word.startswith("expunge_")}
    for path in data_dir.rglob("*"):
        if path.is_file():
            assert secret.rsplit("_", 1)[1].encode() not in path.read_bytes(), path
