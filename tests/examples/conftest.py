"""What the tests of the examples share: a deployment, and a request that a worker serves."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from uuid import UUID

import httpx
import pytest
from pydantic import SecretStr
from sqlalchemy.orm import Session, sessionmaker

from expunge.operator.deployment import Deployment
from ledger.jobs.jobs import get_job, get_report
from ledger.registry.access import ensure_tenant, issue_key
from ledger.requests.submission import Submission, submit
from ledger.resources import Job
from ledger.sample_ids import sample_digest
from ledger.states import JobState
from report.document import Document, read
from service.app import create_app
from service.settings import Settings as ServiceSettings
from tests.service.conftest import NOWHERE, served
from worker.child import StopSignal
from worker.run import run_job
from worker.settings import Settings as WorkerSettings

KEY = bytes(32)


@dataclass(frozen=True)
class Site:
    """Where an example's model is registered and served."""

    where: Deployment
    sessions: sessionmaker[Session]
    tenant_id: UUID

    @contextmanager
    def serve(self) -> Iterator[httpx.Client]:
        """Serve the API, and give a client that is an admin."""
        with self.sessions.begin() as session:
            key = issue_key(session, tenant_id=self.tenant_id, name="privacy", scopes=["admin"]).secret
        settings = ServiceSettings(
            database_url=self.where.database_url, redis_url=NOWHERE, sample_key=KEY.hex(), batch_window_seconds=0
        )
        bearer = {"Authorization": f"Bearer {key}"}
        with (
            served(create_app(settings)) as address,
            httpx.Client(base_url=address, headers=bearer, timeout=60, trust_env=False) as http,
        ):
            yield http

    def erase(self, dataset: str, ids: Sequence[str]) -> tuple[Job, Document]:
        """Request samples to be erased, and be the worker until the job has ended; see `work`."""
        with self.sessions.begin() as session:
            request = submit(
                session,
                Submission(
                    tenant_id=self.tenant_id,
                    caller="test",
                    datasets=[dataset],
                    digests=[sample_digest(KEY, dataset, sample) for sample in ids],
                ),
                window=timedelta(0),
            )
        joined = request.targets[0].job
        assert joined is not None
        return self.work(joined.id)

    def work(self, job_id: UUID) -> tuple[Job, Document]:
        """Be the worker until a job has ended. Give the completed job and its report."""
        settings = WorkerSettings(
            database_url=SecretStr(self.where.database_url),
            redis_url=SecretStr(NOWHERE),
            sample_key=SecretStr(KEY.hex()),
            storage=self.where.storage,
            workloads="examples",
        )
        while run_job(job_id, sessions=self.sessions, settings=settings, worker="test", stop_signal=StopSignal()):
            pass  # an attempt each: a fallback is another one
        with self.sessions() as session:
            job = get_job(session, tenant_id=self.tenant_id, job_id=job_id)
            assert job.state is JobState.COMPLETED, job.detail
            assert job.report_id is not None
            return job, read(get_report(session, tenant_id=self.tenant_id, report_id=job.report_id).body)


@pytest.fixture
def site(tmp_path: Path, database_url: str, sessions: sessionmaker[Session]) -> Site:
    where = Deployment(database_url=database_url, storage=tmp_path / "storage", sample_key=KEY, workloads="examples")
    with sessions.begin() as session:
        return Site(where, sessions, ensure_tenant(session, "default"))


def decided_or_explained(document: Document) -> bool:
    """Tell whether a report is verified, is exact by construction, or names the reason why it is neither."""
    found = document.report
    return found.verdict.value == "verified" or found.exactness is not None or found.verdict.reason is not None
