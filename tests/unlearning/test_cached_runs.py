"""Runs that were done are not done again, whatever killed the process in between."""

import itertools
import signal
import subprocess
import sys
from collections.abc import Generator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import unlearning.cached_runs as cached_runs_module
from unlearning.cached_runs import Arrays, cached_runs, estimate_seconds, finished_count
from unlearning.steps import Figures, Progress, run_to_completion


def run(number: int, *, done: list[int] | None = None) -> Generator[Progress, None, Arrays]:
    for step in range(1, 4):
        yield Progress(phase="train", step=step, total=3)
    if done is not None:
        done.append(number)
    return {"value": np.random.default_rng(number).normal(size=5), "mask": np.array([True, False])}


def test_results_come_back_as_they_were(tmp_path: Path) -> None:
    first, again = (run_to_completion(cached_runs(run, count=3, folder=tmp_path)) for _ in range(2))

    for one, other in zip(first, again, strict=True):
        assert one.keys() == other.keys()
        assert all(np.array_equal(one[name], other[name]) and one[name].dtype == other[name].dtype for name in one)


def test_a_run_that_is_there_is_not_done_again(tmp_path: Path) -> None:
    done: list[int] = []
    run_to_completion(cached_runs(lambda number: run(number, done=done), count=2, folder=tmp_path))
    run_to_completion(cached_runs(lambda number: run(number, done=done), count=4, folder=tmp_path))

    assert done == [0, 1, 2, 3]
    assert finished_count(tmp_path, count=6) == 4


def test_a_damaged_file_is_made_again(tmp_path: Path) -> None:
    wanted = run_to_completion(cached_runs(run, count=2, folder=tmp_path))
    (tmp_path / "0001.npz").write_bytes((tmp_path / "0001.npz").read_bytes()[:50])
    found = run_to_completion(cached_runs(run, count=2, folder=tmp_path))

    np.testing.assert_array_equal(found[1]["value"], wanted[1]["value"])


def test_what_is_pickled_is_not_loaded(tmp_path: Path) -> None:
    np.savez(tmp_path / "0000.npz", value=np.array([{"a": 1}], dtype=object))
    (found,) = run_to_completion(cached_runs(run, count=1, folder=tmp_path))

    assert found["value"].dtype == np.float64


def test_progress_counts_finished_runs(tmp_path: Path) -> None:
    seen = [(p.step, p.total, round(p.metrics["run"], 2)) for p in cached_runs(run, count=2, folder=tmp_path)]

    assert seen == [
        (0, 2, 0.33),
        (0, 2, 0.67),
        (0, 2, 1.0),
        (1, 2, 1.0),
        (1, 2, 0.33),
        (1, 2, 0.67),
        (1, 2, 1.0),
        (2, 2, 1.0),
    ]


def test_a_full_disk_leaves_no_half_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("unlearning.files.os.fsync", full)
    with pytest.raises(OSError, match="No space"):
        run_to_completion(cached_runs(run, count=1, folder=tmp_path))

    assert list(tmp_path.iterdir()) == []


KILLED = """
import os, signal, sys
from pathlib import Path
from tests.unlearning.test_cached_runs import run
from unlearning.cached_runs import cached_runs

for progress in cached_runs(run, count=4, folder=Path(sys.argv[1])):
    if progress.step == 2 and progress.metrics["run"] > 0.5 and progress.metrics["run"] < 1:
        os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_killed_process_loses_the_run_under_way_and_no_other(tmp_path: Path) -> None:
    killed = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path)], capture_output=True, text=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert finished_count(tmp_path, count=4) == 2
    done: list[int] = []
    found = run_to_completion(cached_runs(lambda number: run(number, done=done), count=4, folder=tmp_path))

    assert done == [2, 3]
    for number, one in enumerate(found):
        np.testing.assert_array_equal(one["value"], np.random.default_rng(number).normal(size=5))


def test_each_timed_step_is_waited_for_and_the_run_is_closed() -> None:
    """A GPU computes on while Python is at the next step, until somebody reads a figure."""
    events: list[str] = []

    class Read(Figures):
        def __getitem__(self, name: str) -> float:
            events.append("read")
            return super().__getitem__(name)

    def steps() -> Generator[Progress, None, None]:
        try:
            for number in range(1, 100):
                events.append("step")
                yield Progress(phase="train", step=number, total=100, metrics=Read(loss=1.0))
        finally:
            events.append("closed")

    assert estimate_seconds(steps()) >= 0
    *timed, last = events
    assert timed == ["step", "read"] * (len(timed) // 2)
    assert 0 < len(timed) < 40
    assert last == "closed"


def test_a_run_that_reports_every_tenth_step_takes_no_ten_times_longer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cached_runs_module, "time", SimpleNamespace(perf_counter=itertools.count().__next__))
    steps = (Progress(phase="train", step=step, total=1000) for step in range(10, 1010, 10))

    assert estimate_seconds(steps) == 1 + 990 / 10  # a second for each report: the first, and those that are left
