"""Record the reports that the tests read: jobs of the real worker on the example's digits, whatever their verdict.

python -m tests.report.record [-k NAME]    (a few minutes; writes tests/report/recorded/*.json)
"""

import sys
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

import pytest
from pydantic import SecretStr
from sqlalchemy.orm import Session, sessionmaker

from expunge.operator.deployment import Deployment
from expunge.operator.references import prepare_model
from expunge.operator.registration import register_new_version, register_workload
from expunge.operator.training import Trained, train_workload
from ledger.jobs.claims import claim
from ledger.states import Phase
from report.document import Document
from tests.fixtures.submission import submit_samples
from tests.report.recorded import FOLDER
from tests.worker import digits
from tests.worker.conftest import KEY, REFERENCE
from unlearning.specs.references import ReferencePlan
from worker.attempt import run_attempt
from worker.child import StopSignal
from worker.inputs import load_inputs, load_workload
from worker.lease import Run, hold_lease, stage
from worker.publish import prepare
from worker.settings import Settings


@dataclass(frozen=True, kw_only=True)
class Case:
    """A job: how many samples to forget, by which method, whether the model has references and the audit a retrained model."""

    forgotten: int
    method: str
    references: bool = False
    retrained: bool = False


CASES = {
    "verified": Case(forgotten=60, method="matching", references=True),
    "retrained": Case(forgotten=60, method="matching", references=True, retrained=True),
    "inconclusive": Case(forgotten=5, method="ieu"),
    "failed": Case(forgotten=60, method="gradient_ascent", references=True),
}


@pytest.fixture(scope="session")
def original(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    return train_workload(REFERENCE, allowed=("tests",), folder=tmp_path_factory.mktemp("original"), plain=True)


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", CASES)
def test_record(
    name: str, original: Trained, database_url: str, sessions: sessionmaker[Session], tmp_path: Path
) -> None:
    case, storage = CASES[name], tmp_path / "storage"
    forgotten = digits.workload().train.ids[: case.forgotten]
    deployment = Deployment(database_url=database_url, storage=storage, sample_key=KEY, workloads="tests")
    register_workload(deployment, name="digits", reference=REFERENCE, weights=original.path)
    if case.references:
        prepare_model(deployment, name="digits", plan=ReferencePlan(epochs=1.0))
    if case.retrained:
        retrained = train_workload(
            REFERENCE, allowed=("tests",), folder=tmp_path / "retrained", plain=True, seed=1, without=forgotten
        )
        register_new_version(deployment, name="digits", weights=retrained.path, without=forgotten)
    with sessions.begin() as session:
        job_id = submit_samples(session, "tiny-digits", forgotten, key=KEY, method={"kind": case.method})
    settings = Settings(
        database_url=SecretStr(database_url),
        redis_url=SecretStr("redis://127.0.0.1:1/0"),
        sample_key=SecretStr(KEY.hex()),
        storage=storage,
        workloads="tests",
    )
    document = run(job_id, sessions=sessions, settings=settings)
    print(name, document.report.verdict.value, document.report.verdict.sentence)
    FOLDER.mkdir(exist_ok=True)
    (FOLDER / f"{name}.json").write_bytes(document.content)


def run(job_id: UUID, *, sessions: sessionmaker[Session], settings: Settings) -> Document:
    """Run a job as the worker does, up to its publication, which a failed audit would prevent."""
    with sessions.begin() as session:
        claimed = claim(session, job_id, worker="recorder", lease=settings.lease)
    assert claimed is not None
    job_run = Run(claimed, sessions, settings, StopSignal())
    with hold_lease(job_run):
        with stage(job_run, Phase.LOAD):
            inputs = load_inputs(claimed, load_workload(claimed.workload, allowed=settings.allowed), settings)
        result = run_attempt(job_run, inputs)
        with stage(job_run, Phase.REPORT):
            return prepare(job_run, inputs, result).document


if __name__ == "__main__":
    sys.exit(pytest.main([__file__, "-x", "-s", "-p", "no:cacheprovider", *sys.argv[1:]]))
