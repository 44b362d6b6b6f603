from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import StringIO
from pathlib import Path

import psutil
import pytest
from rich.console import Console

from expunge.cli.console import ProgressDisplay
from expunge.demo.training import TrainingQueue
from expunge.errors import DemoFailed
from tests.fixtures.waiting import await_that


@contextmanager
def queue(folder: Path, *, reference: str, background: bool = False) -> Iterator[TrainingQueue]:
    display = ProgressDisplay(Console(file=StringIO()))
    where = {"reference": reference, "workloads": "tests", "folder": folder}
    with TrainingQueue(**where, display=display, background=background) as made:
        yield made


def test_a_command_that_fails_raises_with_its_logs_tail(tmp_path: Path) -> None:
    with queue(tmp_path, reference="tests.worker.digits:broken") as trainings:
        failing = trainings.submit_references("preparing", model="digits", data_dir=tmp_path / "nowhere", rounds=1)
        with pytest.raises(DemoFailed, match=r"(?s)status 1.*\| .*No stack runs"):
            failing.result()
        with pytest.raises(DemoFailed):
            trainings.check()


def trainings_niceness() -> list[int]:
    """The niceness of each Python process that trains; the watchdog before it has other arguments."""
    found = []
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):  # it has just ended
            if process.cmdline()[1:4] == ["-m", "expunge.cli", "train"]:
                found.append(process.nice())
    return found


def test_leaving_the_queue_stops_the_running_training_and_starts_no_other(tmp_path: Path) -> None:
    before = set(psutil.Process().children())
    with queue(tmp_path, reference="tests.worker.digits:endless", background=True) as trainings:
        futures = [trainings.submit(name, seed=0) for name in ("one", "two")]
        await_that((tmp_path / "one" / "train.log").exists, "the first training to start")
        await_that(trainings_niceness, "the training's own process")
        assert set(trainings_niceness()) == {psutil.Process().nice() + 10}
        assert not futures[0].done()
    assert set(psutil.Process().children()) <= before
    assert futures[1].cancelled()
    assert not (tmp_path / "two").exists()
