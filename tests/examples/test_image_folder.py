"""The folder of scans: its script trains, its workload is registered, and a request is served."""

from datetime import timedelta
from pathlib import Path

import pytest
import torch
from pydantic import SecretStr
from sqlalchemy.orm import Session, sessionmaker
from torch import nn

from examples import image_folder
from expunge.operator.deployment import Deployment
from expunge.operator.registration import register_workload
from ledger.jobs.jobs import get_job
from ledger.registry.access import ensure_tenant
from ledger.requests.submission import submit
from ledger.sample_ids import sample_digest
from ledger.states import JobState
from unlearning.training.loop import fresh
from worker.child import StopSignal
from worker.run import run_job
from worker.settings import Settings

KEY = bytes(32)


@pytest.fixture(autouse=True)
def scans(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the scans, which the script writes."""
    monkeypatch.setenv("EXPUNGE_SCANS", str(tmp_path / "scans"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def small() -> nn.Module:
    """In place of ResNet-18, whose audit takes minutes on a processor."""
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, 2), nn.BatchNorm2d(16), nn.ReLU(), nn.AdaptiveAvgPool2d(5), nn.Flatten(), nn.Linear(400, 10)
    )


def test_the_script_leads_to_an_erasure(
    scans: Path, database_url: str, sessions: sessionmaker[Session], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(image_folder, "network", small)
    where = Deployment(database_url=database_url, storage=scans / "storage", sample_key=KEY, workloads="examples")
    reference = "examples.image_folder:workload"
    register_workload(where, name="scans", reference=reference, weights=image_folder.train(), policy=["retrain"])
    with sessions.begin() as session:
        request = submit(
            session,
            tenant_id=ensure_tenant(session, "default"),
            caller="test",
            dataset="scans",
            digests=[sample_digest(KEY, "scans", sample) for sample in image_folder.workload().train.ids[:60]],
            batch_window=timedelta(0),
        )
    settings = Settings(
        database_url=SecretStr(database_url),
        redis_url=SecretStr("redis://127.0.0.1:1/0"),
        sample_key=SecretStr(KEY.hex()),
        storage=where.storage,
        workloads="examples",
    )
    job_id = request.targets[0].job.id  # type: ignore[union-attr]  # the request was accepted

    assert run_job(job_id, sessions=sessions, settings=settings, worker="test", stop_signal=StopSignal())

    with sessions() as session:
        job = get_job(session, tenant_id=ensure_tenant(session, "default"), job_id=job_id)
    assert job.state == JobState.COMPLETED, job.detail


def test_the_workload_reads_what_the_script_trains_on_with_augmentation_in_training_steps_alone() -> None:
    made, numbers = image_folder.workload(), torch.arange(20)
    plain, varied = (made.train.select(numbers, training=training) for training in (False, True))

    assert (len(made.train), len(made.held_out), len(made.test)) == image_folder.PARTS
    assert made.train.ids[0].startswith("form-")
    assert torch.equal(plain.targets, varied.targets)
    assert not torch.equal(plain.inputs, varied.inputs)
    assert torch.equal(plain.inputs, made.train.select(numbers).inputs)
    assert fresh(image_folder.network, seed=0).eval()(plain.inputs).shape == (20, 10)
