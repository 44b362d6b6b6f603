import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from expunge.stack import stack
from expunge.stack.process import Child, Program
from expunge.stack.stack import STOP_SIGNALS, interruptible, stop_all


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
