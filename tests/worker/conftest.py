"""A small registered model, requests for it, and the worker run in this process (which never forks)."""

import shutil
import tempfile
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from pydantic import SecretStr
from sqlalchemy.orm import Session, sessionmaker

from expunge.operator.deployment import Deployment
from expunge.operator.references import prepare_model
from expunge.operator.registration import register_workload
from expunge.operator.training import Trained, train_workload
from ledger.jobs import claims
from ledger.jobs.claims import Claim
from ledger.jobs.jobs import get_job
from ledger.registry.access import ensure_tenant
from ledger.registry.models import list_versions
from ledger.resources import Job, Version
from tests.fixtures.postgresql import Filled
from tests.fixtures.submission import submit_samples
from tests.worker import digits
from unlearning.audit import reference_test
from unlearning.audit.findings import Findings
from unlearning.specs.audit import AuditSpec
from unlearning.specs.references import ReferencePlan
from unlearning.steps import Progress
from worker import attempt
from worker.child import StopSignal
from worker.run import run_job
from worker.settings import Settings

REFERENCE = "tests.worker.digits:workload"
KEY = bytes(range(32))
PLAN = ReferencePlan(epochs=1.0)
LITTLE: dict[str, Any] = {
    "replicates": 100,
    "vector_seeds": 1,
    "relearners": ("sgd",),
    "relearn_steps": 8,
    "relearn_parts": 1,
    "relearn_controls": 3,
}
"""Of an audit's spec, where it does not matter what the audit finds."""


def shorten_audits(monkeypatch: pytest.MonkeyPatch, **more: int) -> None:
    """Let a worker's audits do what they always do, but little of it. more: of their spec, beside `LITTLE`."""
    original = attempt.audit

    def short(*, spec: AuditSpec, **given: Any) -> Generator[Progress, None, Findings]:
        return original(spec=replace(spec, **LITTLE, **more), **given)

    monkeypatch.setattr(attempt, "audit", short)


@pytest.fixture
def whole_audits() -> None:
    """For a test of what an audit finds, or of how it is reported: its audits are as a worker's."""


@pytest.fixture(autouse=True)
def _short_audits(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Most tests here only need a job that comes to its end."""
    if "whole_audits" in request.fixturenames:
        return
    shorten_audits(monkeypatch)
    monkeypatch.setattr(reference_test, "_SETS", 1)  # over which power is averaged


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    return train_workload(REFERENCE, allowed=("tests",), folder=tmp_path_factory.mktemp("weights"), plain=True)


@pytest.fixture(scope="session")
def training_ids() -> tuple[str, ...]:
    return digits.workload().train.ids


class Killed(BaseException):
    """Stands for the end of the process: nothing catches it, nothing is written any more."""


@dataclass(kw_only=True)
class Bench:
    """One registered model and what a test does with it."""

    sessions: sessionmaker[Session]
    settings: Settings
    tenant_id: UUID
    stop_signal: StopSignal = field(default_factory=StopSignal)

    def submit(self, sample_ids: Sequence[str], method: dict[str, object] | None = None) -> UUID:
        """Ask for samples to be unlearned; gives the job."""
        with self.sessions.begin() as session:
            return submit_samples(session, "tiny-digits", sample_ids, key=KEY, method=method)

    def claim(self, job_id: UUID, *, worker: str = "test", lease: timedelta = timedelta(minutes=10)) -> Claim:
        """Claim a job that can be claimed, and leave it running."""
        with self.sessions.begin() as session:
            claimed = claims.claim(session, job_id, worker=worker, lease=lease)
        assert claimed is not None
        return claimed

    def run(self, job_id: UUID) -> bool:
        """Do what the worker's task does."""
        return run_job(
            job_id, sessions=self.sessions, settings=self.settings, worker="test", stop_signal=self.stop_signal
        )

    def job(self, job_id: UUID) -> Job:
        with self.sessions.begin() as session:
            return get_job(session, tenant_id=self.tenant_id, job_id=job_id)

    def versions(self) -> list[Version]:
        """Oldest first."""
        with self.sessions.begin() as session:
            return list_versions(session, tenant_id=self.tenant_id, model="digits")[::-1]


@dataclass(frozen=True, kw_only=True)
class Registration:
    """How the model is registered. policy: the methods, as Python writes them. folder: under which the storage is made.

    beside: a folder, which stays, of reference models that were trained beside the model by `PLAN`; they are registered too.
    """

    reference: str
    weights: Path
    policy: str
    approve_utility_drop: float
    folder: Path
    methods: Sequence[object] | None = field(compare=False)
    beside: Path | None = None

    def __call__(self, sessions: sessionmaker[Session]) -> Path:
        """Register the model in a storage of its own, which stays as it is afterwards; gives the storage."""
        storage = Path(tempfile.mkdtemp(dir=self.folder))
        self.register(sessions, storage)
        return storage

    def register(self, sessions: sessionmaker[Session], storage: Path | str) -> None:
        database_url = sessions.kw["bind"].url.render_as_string(hide_password=False)
        where = Deployment(database_url=database_url, storage=storage, sample_key=KEY, workloads="tests")
        register_workload(
            where,
            name="digits",
            reference=self.reference,
            weights=self.weights,
            policy=self.methods,  # type: ignore[arg-type]  # a list of methods
            approve_utility_drop=self.approve_utility_drop,
            dry_run=False,
        )
        if self.beside is not None:
            models = Path(shutil.copytree(self.beside, Path(tempfile.mkdtemp(dir=self.folder)) / "references"))
            prepare_model(where, name="digits", plan=PLAN, prepared=models)


@pytest.fixture(scope="session")
def _storages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("storages")


@pytest.fixture
def make_bench(
    database_url: str,
    sessions: sessionmaker[Session],
    filled: Filled,
    trained: Trained,
    tmp_path: Path,
    _storages: Path,
) -> Callable[..., Bench]:
    def make(
        policy: Sequence[object] | None = ("retrain",),
        reference: str = REFERENCE,
        weights: Path | None = None,
        approve_utility_drop: float = 100.0,  # on so little data a method may lose some points
        storage: Path | str | None = None,
        beside: Path | None = None,
        **settings: object,
    ) -> Bench:
        registration = Registration(
            reference=reference,
            weights=weights or trained.path,
            policy=repr(policy),
            approve_utility_drop=approve_utility_drop,
            folder=_storages,
            methods=policy,
            beside=beside,
        )
        if storage is None:
            storage = tmp_path / "storage"
            shutil.copytree(filled(registration), storage, dirs_exist_ok=True)
        else:
            registration.register(sessions, storage)
        defaults = {
            "database_url": SecretStr(database_url),
            "redis_url": SecretStr("redis://127.0.0.1:1/0"),
            "sample_key": SecretStr(KEY.hex()),
            "storage": storage,
            "workloads": "tests",
        }
        with sessions.begin() as session:
            tenant_id = ensure_tenant(session, "default")
        return Bench(
            sessions=sessions,
            settings=Settings.model_validate({**defaults, **settings}),
            tenant_id=tenant_id,
        )

    return make


@pytest.fixture
def bench(make_bench: Callable[..., Bench]) -> Bench:
    return make_bench()
