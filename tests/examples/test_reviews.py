"""A model that is trained by its owner's loop, from scratch and on a frozen part: from its training to an erasure."""

from datetime import timedelta
from pathlib import Path

import pytest
import torch
from pydantic import SecretStr
from sqlalchemy.orm import Session, sessionmaker

from examples import reviews
from expunge.operator.deployment import Deployment
from expunge.operator.references import prepare_model
from expunge.operator.registration import register_workload
from expunge.operator.training import train_workload
from ledger.jobs.jobs import get_job, list_attempts
from ledger.jobs.reports import get_report
from ledger.registry.access import ensure_tenant
from ledger.registry.models import list_versions
from ledger.requests.submission import submit
from ledger.sample_ids import sample_digest
from ledger.states import JobState
from unlearning.specs.references import ReferencePlan
from unlearning.storage import load_weights
from worker.child import StopSignal
from worker.run import run_job
from worker.settings import Settings

KEY = bytes(32)
PLAN = ReferencePlan(rounds=1, audit_rounds=1)


def test_padding_changes_no_prediction() -> None:
    model = reviews.Transformer().eval()
    inputs = reviews.encode(["word1 superb", "word1 superb word2 word3 word4"])
    padded = {name: tensor[:1] for name, tensor in inputs.items()}
    noise = torch.where(padded["mask"], padded["tokens"], 5)

    assert torch.allclose(model(**padded), model(tokens=noise, mask=padded["mask"]))


@pytest.mark.parametrize("name", ["workload", "frozen_workload"])
def test_ten_reviews_are_erased(name: str, tmp_path: Path, database_url: str, sessions: sessionmaker[Session]) -> None:
    reference = f"examples.reviews:{name}"
    made = getattr(reviews, name)()
    trained = train_workload(reference, allowed=("examples",), folder=tmp_path / "weights", references=PLAN)
    where = Deployment(database_url=database_url, storage=tmp_path / "storage", sample_key=KEY, workloads="examples")
    register_workload(where, name="model", reference=reference, weights=trained.path)
    prepared = prepare_model(where, name="model", plan=PLAN, prepared=tmp_path / "weights/references")
    assert prepared is not None
    with sessions.begin() as session:
        tenant = ensure_tenant(session, "default")
        view = submit(
            session,
            tenant_id=tenant,
            caller="test",
            dataset=made.name,
            digests=[sample_digest(KEY, made.name, sample) for sample in made.train.ids[:10]],
            batch_window=timedelta(0),
        )
    job_id = view.targets[0].job.id
    assert job_id is not None
    settings = Settings(
        database_url=SecretStr(database_url),
        redis_url=SecretStr("redis://127.0.0.1:1/0"),
        sample_key=SecretStr(KEY.hex()),
        storage=where.storage,
        workloads="examples",
    )

    assert run_job(job_id, sessions=sessions, settings=settings, worker="test", stop_signal=StopSignal())

    with sessions.begin() as session:
        job = get_job(session, tenant_id=tenant, job_id=job_id)
        assert job.state is JobState.COMPLETED, job.detail
        attempts = list_attempts(session, tenant_id=tenant, job_id=job_id)
        body = get_report(session, tenant_id=tenant, report_id=job.report_id).body
        newest = list_versions(session, tenant_id=tenant, model="model")[0]
    assert attempts[0].method["kind"] == "matching"
    assert body["verdict"]["value"] == "verified" or body["verdict"]["sentence"]
    if name == "frozen_workload":
        unlearned = made.build()
        load_weights(unlearned, where.storage / f"{newest.weights_sha256}.safetensors", newest.weights_sha256)
        assert torch.equal(unlearned.words.weight, made.build().words.weight)
