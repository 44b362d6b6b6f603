"""Back up and restore as docs/runbook.md says: the database by pg_dump, the folder of weights, the sample key."""

import shutil
import subprocess
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from pydantic import SecretStr
from sqlalchemy import func, select
from sqlalchemy.orm import Session, sessionmaker
from typer.testing import CliRunner

from expunge import client
from expunge.cli.main import app
from expunge.operator.deployment import Deployment, DeploymentSettings, open_database
from expunge.operator.doctor import examine
from expunge.operator.keys import create_api_key, create_signing_key
from expunge.operator.registration import register_workload
from expunge.operator.retention import begin_restored_log
from expunge.operator.training import train_workload
from expunge.stack.folder import Folder
from expunge.stack.postgres import binaries
from expunge.stack.stack import run_database
from ledger.registry.access import ensure_tenant
from ledger.requests.submission import Submission, submit
from ledger.sample_ids import sample_digest
from ledger.tables import Base
from ledger.transparency.log import tree_head
from service.app import create_app
from service.settings import Settings as ServiceSettings
from tests.fixtures.registration import RETRAINED
from tests.service.conftest import NOWHERE, served, set_up
from tests.worker import digits
from unlearning.files import file_sha256
from verifier.checking import verify_files
from worker import run as running
from worker.attempt import AttemptResult, run_attempt
from worker.child import StopSignal
from worker.settings import Settings as WorkerSettings

KEY = bytes(32)
REFERENCE = "tests.worker.digits:of_few_samples"


def run(program: str, *arguments: str) -> None:
    """Run one of PostgreSQL's own programs."""
    found = subprocess.run([str(binaries() / program), *arguments], capture_output=True, text=True)
    assert found.returncode == 0, found.stderr


def counts(session: Session) -> dict[str, int]:
    """The number of rows of every table."""
    return {
        name: session.scalars(select(func.count()).select_from(t)).one() for name, t in Base.metadata.tables.items()
    }


def ask(session: Session, samples: list[str]) -> UUID | None:
    """Ask for samples to be erased; gives the job, where the model was trained on them and knows them still."""
    digests = [sample_digest(KEY, "few-digits", sample) for sample in samples]
    tenant = ensure_tenant(session, "default")
    view = submit(
        session,
        Submission(tenant_id=tenant, caller="test", datasets=["few-digits"], digests=digests),
        window=timedelta(0),
    )
    job = view.targets[0].job
    return None if job is None else job.id


def verified(*given: Any, **more: Any) -> AttemptResult:
    """A real result whose audit verifies it, so that the chances of a training do not decide a test of backups."""
    result = run_attempt(*given, **more)
    verdict = replace(result.findings.verdict, value="verified")
    return replace(result, findings=replace(result.findings, verdict=verdict))


def publish(
    job_id: UUID, where: Deployment, sessions: sessionmaker[Session], keys: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Do what a worker does, to the signed result."""
    settings = WorkerSettings(
        database_url=SecretStr(where.database_url),
        redis_url=SecretStr(NOWHERE),
        sample_key=SecretStr(KEY.hex()),
        storage=where.storage,
        signing_keys=keys,
        workloads="tests",
    )
    with monkeypatch.context() as patched:
        patched.setattr(running, "run_attempt", verified)
        assert running.run_job(job_id, sessions=sessions, settings=settings, worker="test", stop_signal=StopSignal())


def test_a_restored_installation_is_whole_serves_what_was_published_and_still_knows_its_samples(
    database_url: str,
    blank_database_url: str,
    sessions: sessionmaker[Session],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    storage, keys, copy = tmp_path / "storage", tmp_path / "keys", tmp_path / "copy"
    where = Deployment(database_url=database_url, storage=storage, sample_key=KEY, workloads="tests")
    trained = train_workload(REFERENCE, allowed=("tests",), folder=tmp_path / "weights", plain=True)
    register_workload(
        where,
        name="digits",
        reference=REFERENCE,
        weights=trained.path,
        **RETRAINED,
    )
    create_signing_key(database_url, keys)
    api_key = create_api_key(database_url, tenant="default", name="auditor", scopes=["admin"])
    known = list(digits.of_few_samples().train.ids)
    with sessions.begin() as session:
        job_id = ask(session, known[:80])
    assert job_id is not None
    publish(job_id, where, sessions, keys, monkeypatch)
    with sessions.begin() as session:
        before = counts(session)

    source, target = (url.replace("+psycopg", "") for url in (database_url, blank_database_url))
    run("pg_dump", "--format=custom", f"--file={tmp_path / 'expunge.dump'}", source)
    shutil.copytree(storage, copy)
    shutil.rmtree(storage)
    run("pg_restore", "--no-owner", "--exit-on-error", f"--dbname={target}", str(tmp_path / "expunge.dump"))

    with open_database(blank_database_url) as restored, restored.begin() as session:
        assert counts(session) == before
    assert begin_restored_log(blank_database_url).before.size > 0
    read_and_verify(blank_database_url, api_key, job_id, sample=known[0], storage=copy, folder=tmp_path)
    found = DeploymentSettings(
        database_url=blank_database_url,
        redis_url=None,
        storage=copy,
        sample_key=KEY.hex(),
        signing_keys=tmp_path / "new keys",  # private keys are in no backup
        workloads="tests",
    )
    assert wrong(found) == {"broker", "worker", "signing keys"}
    create_signing_key(blank_database_url, tmp_path / "new keys")
    assert wrong(found) == {"broker", "worker"}
    with open_database(blank_database_url) as restored, restored.begin() as session:
        assert ask(session, known[:1]) is None
        assert ask(session, known[80:81]) is not None


def test_the_copied_folder_of_a_stopped_stack_goes_on_under_a_new_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stack that has been stopped is copied, goes on, and is lost; PostgreSQL's folder has the owner that it had."""
    for name in ("DATABASE_URL", "EXPUNGE_DATA"):
        monkeypatch.delenv(name, raising=False)
    folder = Folder(tmp_path / "data")

    def log_a_site(name: str) -> None:
        with (
            run_database(folder.root) as url,
            open_database(url) as sessions,
            sessions.begin() as session,
        ):
            set_up(session, name)

    log_a_site("clinic")
    subprocess.run(["cp", "-a", folder.postgres, tmp_path / "postgres.backup"], check=True)
    log_a_site("bank")
    shutil.rmtree(folder.postgres)
    subprocess.run(["cp", "-a", tmp_path / "postgres.backup", folder.postgres], check=True)

    found = CliRunner().invoke(app, ["restore", "--yes", "--data-dir", str(folder.root)])

    assert found.exit_code == 0, found.output
    assert "ended with 1 entries." in found.output
    with run_database(folder.root) as url, open_database(url) as sessions, sessions.begin() as session:
        assert tree_head(session).origin in found.output
        assert tree_head(session).size == 2


def read_and_verify(database_url: str, api_key: str, job_id: UUID, *, sample: str, storage: Path, folder: Path) -> None:
    """Poll the job of a restored installation, fetch its report and all that proves it, and check them with the weights."""
    settings = ServiceSettings(database_url=database_url, redis_url=NOWHERE, sample_key=KEY.hex())
    with served(create_app(settings)) as url, client.connect(url, api_key) as http:
        *_, job = client.watch_job(http, job_id)
        version, _ = client.list_versions(http, "digits")
        report_id = job.report_id
        assert (job.state, version.served, version.report_id) == ("completed", True, report_id)
        assert report_id is not None
        weights = storage / f"{version.weights_sha256}.safetensors"
        assert file_sha256(weights) == version.weights_sha256
        assert "<html" in client.get_report_file(http, report_id, "text/html").decode()
        for name, content in {
            "report.json": client.get_report_file(http, report_id, "application/json"),
            "statement": client.get_statement(http, report_id),
            "keys.json": client.send(http, "GET", "/keys").content,
            "inclusion.json": client.get_inclusion(http, report_id, sample),
            "entry.json": client.send(http, "GET", f"/jobs/{job_id}/log-entry").content,
        }.items():
            (folder / name).write_bytes(content)
    outcome = verify_files(
        folder / "statement",
        keys=[folder / "keys.json"],
        report=folder / "report.json",
        weights=weights,
        sample=folder / "inclusion.json",
        log=folder / "entry.json",
    )
    assert outcome.refused is None
    assert outcome.unchecked == []


def wrong(settings: DeploymentSettings) -> set[str]:
    """The checks of the doctor that fail."""
    return {finding.check for finding in examine(settings) if not finding.ok}
