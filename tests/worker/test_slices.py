"""A model that was trained in slices, from `expunge train` to the second erasure."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from uuid import UUID

import pytest

from expunge.operator.training import train_workload
from ledger.jobs.jobs import get_report
from ledger.registry.models import get_model
from ledger.states import JobState
from tests.worker import digits
from tests.worker.conftest import Bench
from unlearning.files import file_sha256
from worker.report import EXACT_STATEMENTS
from worker.slices import SlicedTraining, describe_checkpoint, usable_checkpoints

REFERENCE = "tests.worker.digits:in_slices"


@pytest.fixture(scope="module")
def sliced(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("weights")
    return train_workload(REFERENCE, allowed=("tests",), folder=folder, plain=True).path


def kept(bench: Bench) -> dict[int, str]:
    """The digests of the weights after slices that the ledger lists; their files are there."""
    with bench.sessions.begin() as session:
        listed = get_model(session, tenant_id=bench.tenant_id, name="digits").details["checkpoints"]
    assert all(file_sha256(bench.settings.storage / entry["path"]) == entry["sha256"] for entry in listed)
    return {entry["slice"]: entry["sha256"] for entry in listed}


def test_a_model_trained_in_slices_goes_back_to_the_weights_before_the_forgotten_samples(
    make_bench: Callable[..., Bench], training_ids: tuple[str, ...], sliced: Path
) -> None:
    bench = make_bench(policy=None, reference=REFERENCE, weights=sliced)
    before = kept(bench)
    assert list(before) == [0, 1]

    job = bench.job(run(bench, training_ids[600:640]))  # of the last slice: less than half of the training is repeated
    assert (job.state, job.method["kind"]) == (JobState.COMPLETED, "rewind"), job.detail
    assert kept(bench) == before
    with bench.sessions.begin() as session:
        assert job.report_id is not None
        body = get_report(session, tenant_id=bench.tenant_id, report_id=job.report_id).body
    assert body["exactness"]["statement"] == EXACT_STATEMENTS["rewind"]
    assert "image-" not in json.dumps(body)

    job = bench.job(
        run(bench, training_ids[400:440], {"kind": "rewind"})
    )  # of the second: weights of now take the old ones' place
    assert (job.state, job.method["kind"]) == (JobState.COMPLETED, "rewind"), job.detail
    after = kept(bench)
    assert after[0] == before[0]
    assert after[1] != before[1]
    assert not (bench.settings.storage / f"{before[1]}.safetensors").exists()


def test_weights_by_a_loss_that_was_fitted_to_other_targets_are_not_used() -> None:
    """Before it was said to which, it was all training targets, forgotten ones included."""
    now = SlicedTraining(samples=digits.in_slices().train, dataset="digits", key=bytes(32), fitted_to="held_out")
    before = replace(now, fitted_to=None)
    listed = [describe_checkpoint(before, 0, "a" * 64), describe_checkpoint(now, 1, "b" * 64)]

    def usable(training: SlicedTraining) -> list[int]:
        return [entry["slice"] for entry in usable_checkpoints(training, {"checkpoints": listed})]

    assert usable(now) == [1]
    assert usable(before) == [0]


def run(bench: Bench, ids: tuple[str, ...], method: dict[str, object] | None = None) -> UUID:
    job_id = bench.submit(ids, method)
    assert bench.run(job_id)
    return job_id
