"""`expunge up` as a person runs it, and the ways in which it ends."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from expunge.stack.broker import free_port
from expunge.stack.folder import read_stack_settings

pytestmark = [pytest.mark.end_to_end, pytest.mark.slow]

PATIENCE = 90.0
LAST_WORDS = "Ctrl-C stops everything."


@dataclass(frozen=True)
class Command:
    """The command as it runs, what it says going to a file."""

    process: "subprocess.Popen[bytes]"
    log: Path

    def said(self) -> str:
        return self.log.read_text()

    def ended(self) -> str:
        """Wait for its end; gives all that it said."""
        self.process.wait(PATIENCE)
        return self.said()


@contextmanager
def up(data_dir: Path) -> Iterator[Command]:
    """The command, in a process group of its own, once it has said all that it says when it is up."""
    words = [sys.executable, "-m", "expunge.cli", "up", "--data-dir", str(data_dir), "--port", str(free_port())]
    environment = {name: value for name, value in os.environ.items() if name not in ("DATABASE_URL", "REDIS_URL")}
    log = data_dir.with_suffix(".log")
    with log.open("wb") as output:
        process = subprocess.Popen(
            words, stdout=output, stderr=subprocess.STDOUT, env=environment, start_new_session=True
        )
    command = Command(process, log)
    try:
        await_that(lambda: LAST_WORDS in command.said() or process.poll() is not None, "the stack to be up")
        assert process.poll() is None, command.said()
        assert read_stack_settings(data_dir) is not None
        yield command
    finally:
        process.kill()
        process.wait()


def await_that(condition: "object", what: str) -> None:
    limit = time.monotonic() + PATIENCE
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < limit, f"waited in vain for {what}"
        time.sleep(0.05)


def descendants(command: Command) -> list[psutil.Process]:
    return psutil.Process(command.process.pid).children(recursive=True)


def alive(processes: list[psutil.Process]) -> list[str]:
    """An ended orphan stays a zombie where no init process collects it."""
    return [
        process.name() for process in processes if process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    ]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_one_signal_stops_everything(tmp_path: Path, number: signal.Signals) -> None:
    with up(tmp_path / "data") as command:
        started = descendants(command)
        assert len(started) >= 6, [child.name() for child in started]
        command.process.send_signal(number)
        output = command.ended()
        assert command.process.returncode == 0, output
        assert "Stopped." in output
        assert alive(started) == []
        assert read_stack_settings(tmp_path / "data") is None


def test_what_a_killed_stack_started_dies_with_it_and_the_next_start_finds_its_data(tmp_path: Path) -> None:
    data_dir = tmp_path / "data"
    with up(data_dir) as command:
        started = descendants(command)
        command.process.kill()
        output = command.ended()
        assert "API key" in output
        await_that(lambda: alive(started) == [], "the orphans to end")
        assert read_stack_settings(data_dir) is None
    with up(data_dir) as command:
        command.process.send_signal(signal.SIGINT)
        assert "API key" not in command.ended()


def test_a_part_that_is_killed_is_started_again(tmp_path: Path) -> None:
    with up(tmp_path / "data") as command:
        (worker,) = [
            child
            for child in psutil.Process(command.process.pid).children()
            if "worker.app" in child.cmdline() and "worker" in child.cmdline()
        ]
        worker.kill()

        def back() -> bool:
            children = psutil.Process(command.process.pid).children()
            return any(child.pid != worker.pid and "worker" in child.cmdline() for child in children)

        await_that(back, "the worker to be back")
        command.process.send_signal(signal.SIGTERM)
        assert "started again" in command.ended()


def test_the_key_is_stored_nowhere_in_clear(tmp_path: Path) -> None:
    data_dir = tmp_path / "data"
    with up(data_dir) as command:
        command.process.send_signal(signal.SIGINT)
        output = command.ended()
    (secret,) = {word for word in output.replace("│", " ").replace("=", " ").split() if word.startswith("expunge_")}
    for path in data_dir.rglob("*"):
        if path.is_file():
            assert secret.rsplit("_", 1)[1].encode() not in path.read_bytes(), path
