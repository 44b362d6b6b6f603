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
from tests.fixtures.opendsr import declare
from tests.fixtures.waiting import await_that

REFERENCE = "tests.worker.digits:of_few_samples"
GATED = "tests.worker.gated:workload"

SAMPLES = [f"image-{i}" for i in range(200)]
"""Of these 19 are in the training set."""


OWNED = "acme"
"""A module outside the repository, which a test writes and the stack may load."""


def options(data_dir: Path) -> Options:
    """Short leases, so that a dead worker is noticed within seconds; many checkpoints and attempts, and gates to stop it at.

    A cancelled job that hangs is ended after a second.
    """
    gates, code = (data_dir.parent / f"{data_dir.name}-{name}" for name in ("gates", "code"))
    for folder in (gates, code):
        folder.mkdir(parents=True, exist_ok=True)
    environment = {
        "PYTHONPATH": f"{code}:{Path(__file__).parents[2]}",
        "EXPUNGE_LEASE_SECONDS": "6",
        "EXPUNGE_SWEEP_SECONDS": "1",
        "EXPUNGE_RETRY_SECONDS": "0",
        "EXPUNGE_WEBHOOK_NETWORKS": "127.0.0.0/8",  # where the tests listen
        "EXPUNGE_CHECKPOINT_SECONDS": "0.1",
        "EXPUNGE_CANCEL_SECONDS": "1",
        "EXPUNGE_MAX_ATTEMPTS": "10",
        "EXPUNGE_OPENDSR": str(declare(data_dir.parent / f"{data_dir.name}-opendsr")),
        "EXPUNGE_TEST_GATES": str(gates),
    }
    return Options(data_dir=data_dir, port=free_port(), workloads=f"tests,{OWNED}", environment=environment)


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


def given_to(running: Stack, name: str) -> str:
    """A variable of the worker's environment."""
    (worker,) = (child for child in running.children if child.program.name == "the worker")
    return (worker.program.environment or {})[name]


@pytest.fixture(scope="session")
def gates(running: Stack) -> Gates:
    return Gates(Path(given_to(running, "EXPUNGE_TEST_GATES")))


@pytest.fixture(scope="session")
def owned(running: Stack) -> Path:
    """The file of the module OWNED."""
    return Path(given_to(running, "PYTHONPATH").split(":")[0]) / f"{OWNED}.py"


@pytest.fixture(scope="session")
def http(running: Stack) -> Iterator[httpx.Client]:
    assert running.api_key is not None
    with client.connect(running.url, running.api_key) as http:
        yield http


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    return train_workload(REFERENCE, allowed=("tests",), folder=tmp_path_factory.mktemp("weights"), plain=True)
