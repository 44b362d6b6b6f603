"""One stack for the tests that only use it."""

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from expunge import client
from expunge.operator.training import Trained, train_workload
from expunge.stack.broker import free_port
from expunge.stack.stack import Options, Stack, run_stack
from tests.fixtures.waiting import await_that

REFERENCE = "tests.worker.digits:workload"
GATED = "tests.worker.gated:workload"

SAMPLES = [f"image-{i}" for i in range(200)]
"""Of these 91 are in the training set: enough that the audit of an honest retraining fails hardly ever. In 12 of 12 seeds it did
not; with 33 forgotten samples it failed in one of 10, being a draw of unusually easy images.
"""


def options(data_dir: Path) -> Options:
    """Short leases, so that a dead worker is noticed within seconds; many checkpoints and tries, and gates to stop it at."""
    gates = data_dir.parent / f"{data_dir.name}-gates"
    gates.mkdir(parents=True, exist_ok=True)
    environment = {
        "EXPUNGE_LEASE_SECONDS": "6",
        "EXPUNGE_SWEEP_SECONDS": "1",
        "EXPUNGE_WEBHOOK_NETWORKS": "127.0.0.0/8",  # where the tests listen
        "EXPUNGE_CHECKPOINT_SECONDS": "0.1",
        "EXPUNGE_MAX_ATTEMPTS": "10",
        "EXPUNGE_TEST_GATES": str(gates),
    }
    return Options(data_dir=data_dir, port=free_port(), workloads="tests", environment=environment)


@dataclass(frozen=True)
class Gates:
    """Where `tests.worker.gated` waits."""

    folder: Path

    def shut(self, name: str) -> None:
        (self.folder / name).with_suffix(".reached").unlink(missing_ok=True)
        (self.folder / name).touch()

    def open(self, name: str) -> None:
        (self.folder / name).unlink(missing_ok=True)

    def await_somebody(self, name: str) -> None:
        await_that((self.folder / name).with_suffix(".reached").exists, f"the worker to come to {name!r}")


@pytest.fixture(scope="session")
def running() -> Iterator[Stack]:
    """Not in pytest's folder, which PostgreSQL's user could not enter again after another pytest of this user has started."""
    with (
        tempfile.TemporaryDirectory(prefix="expunge-stack-") as folder,
        run_stack(options(Path(folder) / "data")) as running,
    ):
        yield running


@pytest.fixture(scope="session")
def gates(running: Stack) -> Gates:
    (worker,) = (child for child in running.children if child.program.name == "the worker")
    return Gates(Path((worker.program.environment or {})["EXPUNGE_TEST_GATES"]))


@pytest.fixture(scope="session")
def http(running: Stack) -> Iterator[httpx.Client]:
    assert running.api_key is not None
    with client.connect(running.url, running.api_key) as http:
        yield http


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    return train_workload(REFERENCE, allowed=("tests",), folder=tmp_path_factory.mktemp("weights"), plain=True)
