"""A running service for the benchmarks that measure it: the embedded stack with small models, used as a caller does."""

import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

import httpx
import psutil  # type: ignore[import-untyped]  # it ships no types

from expunge import client
from expunge.operator.deployment import find_deployment
from expunge.operator.registration import register_workload
from expunge.operator.training import Trained, train_workload
from expunge.stack.broker import free_port
from expunge.stack.stack import Options, Stack, run_stack
from ledger.resources import Job, UnlearnRequest
from tests.worker import digits

SMALL = "tests.worker.digits:workload"
"""The tests' linear network on scikit-learn's digits: a job takes seconds, nearly all of them in the audit."""


@dataclass(frozen=True)
class Served:
    """The stack, a client with all scopes, and weights to register models with.

    small_disk: whether the service's weights have a disk of their own.
    """

    stack: Stack
    http: httpx.Client
    trained: Trained
    small_disk: bool = False

    def register(
        self,
        name: str,
        *,
        reference: str = SMALL,
        policy: Sequence[str] = ("retrain",),
        approve_utility_drop: float | None = None,
        dry_run: bool = True,
    ) -> str:
        """Register a model on a dataset of the same name, with the methods of its policy."""
        register_workload(
            find_deployment(self.stack.folder.root),
            name=name,
            reference=reference,
            weights=self.trained.path,
            dataset=name,
            policy=policy,
            approve_utility_drop=approve_utility_drop,
            dry_run=dry_run,
        )
        return name

    def submit(self, name: str, sample_ids: list[str], *, expedite: bool = False) -> UnlearnRequest:
        """Request the erasure of samples from a registered model; return the request."""
        return client.submit(self.http, dataset=name, sample_ids=sample_ids, expedite=expedite)

    def ended(self, job_id: UUID) -> Job:
        """Poll a job until it has ended."""
        *_, job = client.watch_job(self.http, job_id)
        return job


def api_seconds(running: Stack) -> float:
    """Return the CPU seconds that all processes of the API have used so far."""
    child = next(child for child in running.children if child.program.name == "the API")
    first = psutil.Process(child.process.pid)
    times = [process.cpu_times() for process in (first, *first.children(recursive=True))]
    return float(sum(time.user + time.system for time in times))


@contextmanager
def small_disk(folder: Path, *, size: int | None) -> Iterator[bool]:
    """Mount a file system of `size` bytes in memory at a folder; yield whether the machine allows it. None: do nothing."""
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    if size is None or shutil.which("mount") is None:
        yield False
        return
    folder.mkdir(parents=True)
    mounted = subprocess.run(command, capture_output=True, check=False).returncode == 0
    try:
        yield mounted
    finally:
        if mounted:
            subprocess.run(["umount", "--lazy", str(folder)], check=True)


@contextmanager
def served(*, storage_bytes: int | None = None, reference: str = SMALL, **environment: str) -> Iterator[Served]:
    """Run a stack in a temporary folder with the given settings.

    storage_bytes: the size of a disk of its own for the weights. reference: the workload of the weights.
    """
    with (
        tempfile.TemporaryDirectory(prefix="expunge-bench-") as folder,
        small_disk(Path(folder) / "data" / "weights", size=storage_bytes) as small,
    ):
        options = Options(
            data_dir=Path(folder) / "data",
            port=free_port(),
            workloads="tests,examples",
            environment={"EXPUNGE_SWEEP_SECONDS": "1", **environment},
        )
        trained = train_workload(reference, allowed=("tests",), folder=Path(folder) / "trained", plain=True)
        with run_stack(options) as running:
            assert running.api_key is not None
            with client.connect(running.url, running.api_key) as http:
                http.timeout = httpx.Timeout(120)
                yield Served(running, http, trained, small_disk=small)


def training_ids() -> list[str]:
    """List the IDs that the small model was trained on."""
    return list(digits.workload().train.ids)
