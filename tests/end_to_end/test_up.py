"""`expunge up` as a person runs it: one stack that is killed, and a second one on the same folder that is stopped."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from expunge.operator.deployment import DeploymentSettings, read_deployment_settings
from expunge.stack.broker import free_port
from expunge.stack.folder import read_stack_settings
from tests.fixtures.waiting import PATIENCE, alive, await_that

pytestmark = pytest.mark.end_to_end

SAMPLE_KEY = "cd" * 32
LAST_LINE = "Ctrl-C stops everything."


@dataclass(frozen=True)
class Command:
    """The running command; its output goes to a file."""

    process: "subprocess.Popen[bytes]"
    log: Path

    def output(self) -> str:
        return self.log.read_text()

    def descendants(self) -> list[psutil.Process]:
        return psutil.Process(self.process.pid).children(recursive=True)


@contextmanager
def up(data_dir: Path, log: Path) -> Iterator[Command]:
    """Start the command in a process group of its own and wait until it is up."""
    words = [sys.executable, "-m", "expunge.cli", "up", "--data-dir", str(data_dir), "--port", str(free_port())]
    environment = {name: value for name, value in os.environ.items() if name not in ("DATABASE_URL", "REDIS_URL")}
    environment |= {"EXPUNGE_SAMPLE_KEY": SAMPLE_KEY, "EXPUNGE_SIGNING_KEYS": str(data_dir.parent / "keys")}
    with log.open("wb") as output:
        process = subprocess.Popen(
            words, stdout=output, stderr=subprocess.STDOUT, env=environment, start_new_session=True
        )
    command = Command(process, log)
    try:
        await_that(lambda: LAST_LINE in command.output() or process.poll() is not None, "the stack to be up")
        assert process.poll() is None, command.output()
        yield command
    finally:
        process.kill()
        process.wait()


@dataclass(frozen=True, kw_only=True)
class Lives:
    """What two stacks left behind that ran one after the other on the same folder."""

    data_dir: Path
    first_output: str
    known_while_up: DeploymentSettings
    restarted: list[str]
    known_after_kill: bool
    second_output: str
    second_status: int
    left_after_stop: list[str]
    known_after_stop: bool


@pytest.fixture(scope="module")
def lives(tmp_path_factory: pytest.TempPathFactory) -> Lives:
    """Kill the beat, which starts quickest, and then the stack itself; start again and stop by SIGINT, as Ctrl-C does."""
    folder = tmp_path_factory.mktemp("up")
    data_dir = folder / "data"
    with up(data_dir, folder / "first.log") as command:
        known_while_up = read_deployment_settings(data_dir)
        (beat,) = beats(command)
        beat.kill()
        await_that(lambda: [other for other in beats(command) if other.pid != beat.pid], "a new beat")
        await_that(lambda: "started again" in command.output(), "the restart to be reported")
        started = command.descendants()
        restarted = [str(process.pid) for process in beats(command)]
        command.process.kill()
        command.process.wait(PATIENCE)
        first_output = command.output()
        await_that(lambda: alive(started) == [], "the orphans to end")
        known_after_kill = read_stack_settings(data_dir) is not None
    with up(data_dir, folder / "second.log") as command:
        started = command.descendants()
        assert len(started) >= 6, [child.name() for child in started]
        command.process.send_signal(signal.SIGINT)
        status = command.process.wait(PATIENCE)
        return Lives(
            data_dir=data_dir,
            first_output=first_output,
            known_while_up=known_while_up,
            restarted=restarted,
            known_after_kill=known_after_kill,
            second_output=command.output(),
            second_status=status,
            left_after_stop=alive(started),
            known_after_stop=read_stack_settings(data_dir) is not None,
        )


def beats(command: Command) -> list[psutil.Process]:
    found = []
    for child in psutil.Process(command.process.pid).children():
        with suppress(psutil.Error):  # it has just ended
            if {"worker.app", "beat"} <= set(child.cmdline()):
                found.append(child)
    return found


def test_a_part_that_is_killed_is_started_again(lives: Lives) -> None:
    assert len(lives.restarted) == 1


def test_what_a_killed_stack_started_dies_with_it(lives: Lives) -> None:
    assert lives.known_while_up.database_url is not None
    assert not lives.known_after_kill


def test_keys_of_the_environment_are_those_of_the_stack_and_of_commands_without_them(lives: Lives) -> None:
    keys = lives.data_dir.parent / "keys"
    assert (lives.known_while_up.sample_key, lives.known_while_up.signing_keys) == (SAMPLE_KEY, keys)
    assert len(list(keys.glob("*.pem"))) == 1
    assert not (lives.data_dir / "sample.key").exists()
    assert not (lives.data_dir / "signing-keys").exists()


def test_the_next_start_finds_its_data_and_makes_no_new_key(lives: Lives) -> None:
    assert "EXPUNGE_API_KEY=expunge_" in lives.first_output
    assert "EXPUNGE_API_KEY=KEY" in lives.second_output
    assert "=expunge_" not in lives.second_output


def test_one_signal_stops_everything(lives: Lives) -> None:
    assert lives.second_status == 0, lives.second_output
    assert lives.left_after_stop == []
    assert not lives.known_after_stop


def test_the_key_is_stored_nowhere_in_clear(lives: Lives) -> None:
    words = lives.first_output.replace("│", " ").replace("=", " ").split()
    (secret,) = {word for word in words if word.startswith("expunge_")}
    for path in lives.data_dir.rglob("*"):
        if path.is_file():
            assert secret.split("_", 2)[2].encode() not in path.read_bytes(), path
