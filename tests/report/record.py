"""Record the reports that the tests read: jobs of the real worker on the small digits, whatever their verdict.

python -m tests.report.record    (a few minutes; writes tests/report/recorded/*.json)
"""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from expunge.operator.deployment import Deployment
from expunge.operator.registration import register_new_version
from expunge.operator.training import train_workload
from ledger.jobs.claims import claim
from ledger.states import Phase
from report.document import Document
from tests.report.recorded import FOLDER
from tests.worker.conftest import KEY, REFERENCE, Bench, make_bench, trained, training_ids
from unlearning.specs.audit import AuditSpec
from worker.attempt import try_method
from worker.checkpoints import Saving
from worker.inputs import load
from worker.lease import kept
from worker.progress import Journal, stage
from worker.publish import prepare

__all__ = ["make_bench", "trained", "training_ids"]  # fixtures


@dataclass(frozen=True, kw_only=True)
class Case:
    """A job: how many samples to forget, by which method, and whether its audit has a retrained model."""

    forgotten: int
    method: dict[str, object]
    retrained: bool = False


CASES = {
    "verified": Case(forgotten=160, method={"kind": "ieu"}),
    "retrained": Case(forgotten=160, method={"kind": "ltu"}, retrained=True),
    "inconclusive": Case(forgotten=5, method={"kind": "retrain"}),
    "failed": Case(forgotten=160, method={"kind": "gradient_ascent", "steps": 1}),
}


@pytest.mark.parametrize("name", CASES)
def test_record(name: str, make_bench: Callable[..., Bench], training_ids: tuple[str, ...], tmp_path: Path) -> None:
    case = CASES[name]
    bench = make_bench()
    forgotten = training_ids[: case.forgotten]
    if case.retrained:
        weights = train_workload(
            REFERENCE, allowed=("tests",), folder=tmp_path / "retrained", plain=True, seed=1, without=forgotten
        )
        deployment = Deployment(
            database_url=bench.settings.database_url.get_secret_value(),
            storage=bench.settings.storage,
            sample_key=KEY,
            workloads="tests",
        )
        register_new_version(deployment, name="digits", weights=weights.path, without=forgotten)
    document = run(bench, bench.submit(forgotten, method=case.method))
    print(name, document.report.verdict.value, document.report.verdict.sentence)
    FOLDER.mkdir(exist_ok=True)
    (FOLDER / f"{name}.json").write_bytes(document.content)


def run(bench: Bench, job_id: object) -> Document:
    """Do what the worker does with a job, up to its publication, which a failed audit would prevent."""
    settings = bench.settings
    with bench.sessions.begin() as session:
        claimed = claim(session, job_id, worker="test", lease=settings.lease)
    assert claimed is not None
    with kept(claimed, sessions=bench.sessions, lease=settings.lease, stopping=bench.stopping) as watch:
        journal = Journal(watch, bench.sessions)
        with stage(journal, Phase.LOAD):
            material = load(claimed, settings)
        saving = Saving(storage=settings.storage, every=settings.checkpoint_seconds)
        trial = try_method(journal, material, spec=AuditSpec(), saving=saving)
        return prepare(journal, material, trial, settings=settings).document


if __name__ == "__main__":
    sys.exit(pytest.main([__file__, "-x", "-s", "-p", "no:cacheprovider"]))
