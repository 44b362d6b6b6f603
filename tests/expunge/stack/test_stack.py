import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from expunge.errors import StackError
from expunge.stack import stack
from expunge.stack.folder import Folder, StackSettings
from expunge.stack.process import Child, Program, start, stop
from expunge.stack.stack import (
    MAX_RESTARTS,
    STOP_SIGNALS,
    Restarts,
    Stack,
    interruptible,
    stop_all,
    supervise,
)


@pytest.mark.parametrize("number", STOP_SIGNALS)
def test_a_signal_unwinds_the_stack_and_a_second_one_does_not_end_the_unwinding(number: signal.Signals) -> None:
    unwound = []

    @contextmanager
    def part() -> Iterator[None]:
        try:
            yield
        finally:
            for again in STOP_SIGNALS:
                signal.raise_signal(again)
            unwound.append(True)

    with pytest.raises(KeyboardInterrupt), interruptible(), part():
        signal.raise_signal(number)
    assert unwound


@pytest.mark.parametrize("number", STOP_SIGNALS)
def test_a_signal_that_comes_while_everything_is_stopped_leaves_nothing_running(
    number: signal.Signals, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = Program(name="the program", command=(), log=tmp_path / "log", ready=lambda: True)
    children = [Child(program, subprocess.Popen([sys.executable, "-c", ""])) for _ in range(2)]
    stopped = []

    def interrupted(child: Child) -> None:
        signal.raise_signal(number)
        child.process.wait()
        stopped.append(child)

    monkeypatch.setattr(stack, "stop", interrupted)
    expected = children[::-1]
    with interruptible():
        stop_all(children)
    assert stopped == expected


def test_a_part_has_its_own_budget_of_restarts_within_a_window() -> None:
    restarts = Restarts(["PostgreSQL", "the worker"])
    for second in range(MAX_RESTARTS):
        restarts.count("PostgreSQL", at=second)
        restarts.count("the worker", at=second)
    assert not restarts.exhausted("PostgreSQL")
    restarts.count("the worker", at=MAX_RESTARTS)
    assert (restarts.exhausted("PostgreSQL"), restarts.exhausted("the worker")) == (False, True)
    assert "PostgreSQL ended 5 times, the worker ended 6 times" in restarts.describe()
    for day in range(1, 30):
        restarts.count("the worker", at=day * 86400.0)
        assert not restarts.exhausted("the worker")
    assert "PostgreSQL" not in restarts.describe()


@pytest.fixture
def ending(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, int], Child]:
    """`ending(name, times)`: a part that is started, and ends that many times before it stays."""
    monkeypatch.setattr(stack, "CHECK_INTERVAL", 0.01)

    def make(name: str, times: int) -> Child:
        starts = tmp_path / f"{name}.starts"
        code = (
            f"import sys, time; starts = open({str(starts)!r}, 'a+'); starts.write('x'); starts.flush(); starts.seek(0); "
            f"time.sleep(600) if len(starts.read()) > {times} else sys.exit(3)"
        )
        program = Program(
            name=name, command=(sys.executable, "-c", code), log=tmp_path / f"{name}.log", ready=starts.exists
        )
        return start(program)

    return make


def supervised(tmp_path: Path, children: list[Child], *, until: int) -> list[str]:
    """What the supervisor reports, until there were that many restarts and it is interrupted."""
    settings = StackSettings(api_url="", database_url="", redis_url="", storage="", workloads="")
    reported: list[str] = []

    def note(text: str) -> None:
        reported.append(text)
        if sum("is started again" in line for line in reported) >= until:
            raise KeyboardInterrupt

    try:
        with pytest.raises(KeyboardInterrupt):
            supervise(Stack(Folder(tmp_path), settings, None, children), on_restart=note)
    finally:
        for child in children:
            stop(child)
    return reported


def test_restarts_of_different_parts_do_not_add_up(tmp_path: Path, ending: Callable[[str, int], Child]) -> None:
    children = [ending("first", 4), ending("second", 4)]
    reported = supervised(tmp_path, children, until=8)
    assert {name: sum(line.startswith(name) for line in reported) for name in ("first", "second")} == {
        "first": 4,
        "second": 4,
    }


def test_the_part_that_keeps_ending_is_named(tmp_path: Path, ending: Callable[[str, int], Child]) -> None:
    children = [ending("the broker", 2), ending("the beat", 99)]
    with pytest.raises(StackError, match=r"the beat ended 6 times.* Last status: 3"):
        supervised(tmp_path, children, until=99)
