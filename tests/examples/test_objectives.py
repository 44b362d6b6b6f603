"""The examples of other objectives than classification, from the training script to the published report."""

import importlib
from datetime import timedelta
from pathlib import Path

import pytest
from pydantic import SecretStr
from sqlalchemy.orm import Session, sessionmaker

from expunge.errors import CannotRegister
from expunge.operator.deployment import Deployment
from expunge.operator.registration import register_workload
from ledger.jobs.jobs import get_job
from ledger.jobs.reports import get_report
from ledger.registry.access import ensure_tenant
from ledger.requests.submission import submit
from ledger.sample_ids import sample_digest
from ledger.states import JobState
from report.document import read
from report.html import render_html
from unlearning.storage import save_weights
from worker.child import StopSignal
from worker.run import run_job
from worker.settings import Settings

KEY = bytes(32)


@pytest.mark.parametrize(("name", "merit"), [("house_prices", "explained variance"), ("digit_facts", "F1 score")])
def test_a_plain_script_is_registered_and_a_request_published_verified_or_told_why_not(
    name: str, merit: str, tmp_path: Path, database_url: str, sessions: sessionmaker[Session]
) -> None:
    example = importlib.import_module(f"examples.{name}")
    workload = example.workload()
    where = Deployment(database_url=database_url, storage=tmp_path / "storage", sample_key=KEY, workloads="examples")
    reference = f"examples.{name}:workload"
    untrained = save_weights(workload.build(), tmp_path)[0]
    with pytest.raises(CannotRegister, match=merit):
        register_workload(where, name=name, reference=reference, weights=untrained)
    weights = save_weights(example.train(), tmp_path)[0]
    register_workload(where, name=name, reference=reference, weights=weights, approve_utility_drop=100.0)
    with sessions.begin() as session:
        tenant_id = ensure_tenant(session, "default")
        digests = [sample_digest(KEY, workload.name, sample) for sample in workload.train.ids[::8]]
        view = submit(
            session,
            tenant_id=tenant_id,
            caller="test",
            dataset=workload.name,
            digests=digests,
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
    while run_job(job_id, sessions=sessions, settings=settings, worker="test", stop_signal=StopSignal()):
        pass  # an attempt each: LTU, IEU, Retrain

    with sessions() as session:
        job = get_job(session, tenant_id=tenant_id, job_id=job_id)
        assert job.state == JobState.COMPLETED, job.detail
        assert job.report_id is not None
        report = read(get_report(session, tenant_id=tenant_id, report_id=job.report_id).body)
    found = report.report
    assert found.audit.merit.name == merit
    assert found.verdict.value == "verified" or found.exactness is not None or found.verdict.reason is not None
    assert found.audit.measures.unlearned.ua.value > found.audit.measures.original.ua.value + 10
    page = render_html(report)
    assert merit in page
    assert "ccuracy on" not in page
