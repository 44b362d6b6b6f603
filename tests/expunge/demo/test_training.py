from collections.abc import Iterator
from contextlib import contextmanager
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
def queue(folder: Path, *, reference: str) -> Iterator[TrainingQueue]:
    display = ProgressDisplay(Console(file=StringIO()))
    with TrainingQueue(reference=reference, workloads="tests", folder=folder, display=display) as made:
        yield made


def test_a_command_that_fails_raises_with_its_logs_tail(tmp_path: Path) -> None:
    with queue(tmp_path, reference="tests.worker.digits:broken") as trainings:
        failing = trainings.submit_references("preparing", model="digits", data_dir=tmp_path / "nowhere", rounds=1)
        with pytest.raises(DemoFailed, match=r"(?s)status 1.*\| .*No stack runs"):
            failing.result()
        with pytest.raises(DemoFailed):
            trainings.check()


def test_leaving_the_queue_stops_the_running_training_and_starts_no_other(tmp_path: Path) -> None:
    before = set(psutil.Process().children())
    with queue(tmp_path, reference="tests.worker.digits:endless") as trainings:
        futures = [trainings.submit(name, seed=0) for name in ("one", "two")]
        await_that((tmp_path / "one" / "train.log").exists, "the first training to start")
        assert not futures[0].done()
    assert set(psutil.Process().children()) <= before
    assert futures[1].cancelled()
    assert not (tmp_path / "two").exists()
