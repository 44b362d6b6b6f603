"""A disk that is really full: a file system of a few pages in memory, where the machine lets a test mount one."""

import dataclasses
import shutil
import subprocess
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.orm import Session, sessionmaker

from connectors.storage import LocalFolder
from expunge.operator.training import Trained
from ledger.events.timeline import list_job_events
from ledger.jobs.jobs import list_attempts
from ledger.jobs.workers import storage_room
from ledger.states import JobState, Reason
from tests.worker.conftest import Bench
from unlearning.audit.findings import Findings
from unlearning.specs.audit import AuditSpec
from unlearning.steps import Progress
from worker import attempt
from worker.cleanup import record_storage_room


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """256 KiB: room for the weights of the first version and a few more."""
    folder = tmp_path / "storage"
    folder.mkdir()
    mount = shutil.which("mount")
    if mount is None or subprocess.run([mount, "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(folder)]).returncode:
        pytest.skip("needs the right to mount a small file system in memory")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def fill(path: Path) -> None:
    with path.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))


@pytest.fixture
def _believed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A short audit whose verdict is always good: that a disk was full does not depend on it."""
    original = attempt.audit

    def believed(*, spec: AuditSpec, **given: Any) -> Generator[Progress, None, Findings]:
        short = dataclasses.replace(spec, replicates=100, relearners=("sgd",), vector_seeds=1)
        findings = yield from original(spec=short, **given)
        return dataclasses.replace(findings, verdict=dataclasses.replace(findings.verdict, value="verified"))

    monkeypatch.setattr(attempt, "audit", believed)


@pytest.mark.usefixtures("_believed")
def test_a_full_disk_is_recorded_and_the_job_completes_once_there_is_room(
    small_disk: Path, make_bench: Callable[..., Bench], trained: Trained, training_ids: tuple[str, ...]
) -> None:
    bench = make_bench(checkpoint_seconds=0.2, retry_seconds=0)
    filler = small_disk / "filler"
    with pytest.raises(OSError, match="No space left"):
        fill(filler)
    job_id = bench.submit(training_ids[:179])
    bench.run(job_id)
    job = bench.job(job_id)
    assert (job.state, [version.number for version in bench.versions()]) == (JobState.QUEUED, [1])
    filler.unlink()
    bench.run(job_id)

    with bench.sessions.begin() as session:
        attempts = list_attempts(session, tenant_id=bench.tenant_id, job_id=job_id)
        events = list_job_events(session, tenant_id=bench.tenant_id, job_id=job_id)
    assert attempts[0].reason is Reason.DISK_FULL
    queued = [(event.data["attempt"], event.data["reason"]) for event in events if event.kind == "job.queued"]
    assert queued == [(2, "disk_full")]
    assert "No space left on device" in {
        event.data.get("why") for event in events if event.kind == "job.checkpoint_failed"
    }
    assert bench.job(job_id).state is JobState.COMPLETED
    assert [version.number for version in bench.versions()] == [1, 2]
    assert list(small_disk.glob(".writing-*")) == []


def test_the_room_that_is_left_is_recorded(small_disk: Path, sessions: sessionmaker[Session]) -> None:
    (small_disk / "weights").write_bytes(bytes(192 * 1024))
    record_storage_room(LocalFolder(small_disk), sessions)
    with sessions() as session:
        assert storage_room(session) == (64 * 1024, 256 * 1024)
