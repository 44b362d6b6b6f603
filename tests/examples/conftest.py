"""What the tests of the examples share: a deployment, and a request that a worker serves."""

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
import pytest
import typst
from pydantic import SecretStr
from sqlalchemy import select
from sqlalchemy.orm import Session, sessionmaker

from connectors.configuration import Connector
from expunge.operator.deployment import Deployment
from ledger.events.hand_overs import HandedVersion
from ledger.events.webhooks import Batch, Delivery, Try, add_webhook
from ledger.jobs.claims import Claim
from ledger.jobs.jobs import get_job, get_report
from ledger.registry.access import ensure_tenant, issue_key
from ledger.resources import Job
from ledger.states import JobState, TryOutcome
from ledger.tables import Base
from report.document import Document, read
from service.app import create_app
from service.settings import Settings as ServiceSettings
from tests.fixtures.submission import submit_samples
from tests.report.test_pdf import embedded_files
from tests.service.conftest import NOWHERE, served
from tests.worker.conftest import shorten_audits
from worker import run
from worker.beat.hand_overs import deliver_hand_overs, find_weights
from worker.beat.webhooks import deliver_webhooks
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
            job_id = submit_samples(session, dataset, ids, key=KEY)
        return self.work(job_id)

    def work(self, job_id: UUID) -> tuple[Job, Document]:
        """Be the worker until a job has ended. Give the completed job and its report."""
        job = self.end(job_id)
        assert job.state is JobState.COMPLETED, job.detail
        assert job.report_id is not None
        with self.sessions() as session:
            return job, read(get_report(session, tenant_id=self.tenant_id, report_id=job.report_id).body)

    def end(self, job_id: UUID) -> Job:
        """Be the worker until a job has ended, in whatever way."""
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
            return get_job(session, tenant_id=self.tenant_id, job_id=job_id)


@pytest.fixture
def site(tmp_path: Path, database_url: str, sessions: sessionmaker[Session]) -> Site:
    where = Deployment(database_url=database_url, storage=tmp_path / "storage", sample_key=KEY, workloads="examples")
    with sessions.begin() as session:
        return Site(where, sessions, ensure_tenant(session, "default"))


@pytest.fixture
def short_audits(monkeypatch: pytest.MonkeyPatch) -> None:
    """For a test of the way to a report: audits are short (`shorten_audits`).

    Jobs have one seed, which is otherwise their ID's: with it the methods of these tests are not failed by such audits.
    """
    claim_job = run.claim_job

    def seeded(*given: Any, **more: Any) -> Claim | None:
        claim = claim_job(*given, **more)
        return None if claim is None else replace(claim, seed=1)

    monkeypatch.setattr(run, "claim_job", seeded)
    shorten_audits(monkeypatch, extraction_samples=5, generated_samples=40)


def decided_or_explained(document: Document) -> bool:
    """Tell whether a report is verified, is exact by construction, or names the reason why it is neither."""
    found = document.report
    return found.verdict.value == "verified" or found.exactness is not None or found.verdict.reason is not None


def assert_figure_shown(page: str, question: str, title: str, labels: Sequence[str]) -> None:
    """Assert that a report's page has a figure under its question: a picture with its title, and what it draws by name."""
    figures = [part.partition("</figure>")[0] for part in page.split("<figure")[1:]]
    (figure,) = [one for one in figures if f"<h3>{question}</h3>" in one]
    assert title in re.findall(r"<title[^>]*>([^<]*)</title>", figure)
    assert [label for label in labels if f">{label}</text>" not in figure] == []


class Outlets:
    """Every way by which something about a job leaves the house, each with a receiver of its own."""

    def __init__(self, site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
        """Set up a receiver of webhooks, and note what PDFs are made of: in the file their text is numbers of glyphs."""
        self.site, self.printed = site, []
        with site.sessions.begin() as session:
            add_webhook(session, tenant_id=site.tenant_id, url="http://127.0.0.1:1/", key=KEY)
        compile_pdf = typst.compile

        def noted(source: Path, **given: Any) -> object:
            self.printed += [path.read_text() for path in Path(given["root"]).iterdir()]
            return compile_pdf(source, **given)

        monkeypatch.setattr(typst, "compile", noted)

    def collect(self, http: httpx.Client, job: Job, request_id: str) -> dict[str, str]:
        """Send what is due, and give the content of each outlet by its name."""
        report = f"/reports/{job.report_id}"
        pdf = http.get(report, headers={"Accept": "application/pdf"})
        assert pdf.status_code == 200
        with self.site.sessions() as session:
            rows = [str(row) for table in Base.metadata.sorted_tables for row in session.execute(select(table))]
        return {
            "page": http.get(report, headers={"Accept": "text/html"}).text,
            "report": http.get(report).text,
            "PDF": "\n".join(self.printed),
            "files in the PDF": "\n".join(file.decode() for file in embedded_files(pdf.content)),
            "webhooks": "\n".join(self._webhooks()),
            "hand-over": self._hand_over(),
            "metrics": http.get("/metrics").text,
            "job": http.get(f"/jobs/{job.id}").text + http.get(f"/jobs/{job.id}/events").text,
            "request": http.get(f"/unlearn-requests/{request_id}").text
            + http.get(f"/unlearn-requests/{request_id}/events").text,
            "database": "\n".join(rows),
        }

    def _webhooks(self) -> list[str]:
        sent: list[str] = []

        def send(_: Batch, delivery: Delivery) -> Try:
            sent.append(delivery.body)
            return Try(outcome=TryOutcome.DELIVERED, status=200, seconds=0.0)

        deliver_webhooks(self.site.sessions, send=send)
        assert any("job.completed" in body for body in sent)
        return sent

    def _hand_over(self) -> str:
        """Hand the version over to a system that notes all that it is given: what it knows of the version, and the weights."""
        given: list[str] = []

        class Noting:
            withdraws = True

            def hand_over(self, version: HandedVersion, weights: Callable[[], Path]) -> str:
                given.append(f"{asdict(version)}" + weights().read_bytes().decode("latin-1"))
                return "there"

            def check(self, version: HandedVersion) -> None:
                given.append(f"{asdict(version)}")

            def withdraw(self, version: HandedVersion) -> None:
                given.append(f"{asdict(version)}")

        connector = Connector(name="noting", tenant="default", models=("*",), system=Noting())
        deliver_hand_overs(self.site.sessions, connector, find_weights=partial(find_weights, self.site.where.files))
        assert any("report_sha256" in one for one in given)
        return "\n".join(given)
