"""Jobs whose storage is a bucket: two workers share no folder."""

import subprocess
import sys
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from expunge.operator.deployment import Deployment, DeploymentSettings
from expunge.operator.doctor import check_storage, check_weights
from expunge.operator.references import prepare_model
from expunge.operator.retention import find_purgeable, purge
from ledger.jobs.jobs import list_attempts
from ledger.registry.references import find_references
from ledger.sample_ids import sample_digest
from ledger.states import JobState, Reason
from ledger.tables import Model
from tests.fixtures import s3
from tests.fixtures.s3 import BUCKET, S3
from tests.fixtures.waiting import PATIENCE
from tests.worker.conftest import KEY, Bench
from unlearning.data.references import from_bytes
from unlearning.specs.references import ReferencePlan

URL = f"s3://{BUCKET}/production"


def reasons(bench: Bench, job_id: Any) -> list[Reason | None]:
    with bench.sessions.begin() as session:
        return [each.reason for each in list_attempts(session, tenant_id=bench.tenant_id, job_id=job_id)]


def keys(s3_api: S3) -> set[str]:
    return {key.removeprefix("production/") for key, _ in s3_api.versions()}


def test_two_workers_on_two_hosts_erase_one_after_the_other_and_old_weights_are_deleted_with_all_versions(
    s3_api: S3, make_bench: Callable[..., Bench], training_ids: tuple[str, ...], tmp_path: Path, database_url: str
) -> None:
    s3_api.client.put_bucket_versioning(Bucket=BUCKET, VersioningConfiguration={"Status": "Enabled"})
    options = {"storage": URL, "retry_seconds": 0}
    first = make_bench(storage_cache=tmp_path / "host 1", **options)
    where = Deployment(
        database_url=database_url,
        storage=URL,
        sample_key=KEY,
        workloads="tests",
        storage_cache=tmp_path / "operator",
    )
    job_id = first.submit(training_ids[:80])
    s3_api.break_calls("PUT", s3.refuse("403 Forbidden", "AccessDenied"))
    first.run(job_id)
    assert (first.job(job_id).state, reasons(first, job_id)[0]) == (JobState.QUEUED, Reason.STORAGE_FAILED)
    s3_api.mend()
    first.run(job_id)
    assert first.job(job_id).state is JobState.COMPLETED

    second = Bench(
        sessions=first.sessions,
        settings=first.settings.model_copy(update={"storage_cache": tmp_path / "host 2"}),
        tenant_id=first.tenant_id,
    )
    later = second.submit(training_ids[80:90])
    second.run(later)
    assert second.job(later).state is JobState.COMPLETED
    versions = second.versions()
    assert [version.number for version in versions] == [1, 2, 3]
    names = [f"{version.weights_sha256}.safetensors" for version in versions]
    assert set(names) <= keys(s3_api)
    with first.sessions() as session:
        assert check_weights(session, where.files).ok

    s3_api.client.delete_object(
        Bucket=BUCKET, Key=f"production/{names[0]}"
    )  # by hand: the content stays as an old version
    purged = purge(where, find_purgeable(where, older_than=timedelta(0)), older_than=timedelta(0))
    assert (set(purged.files), purged.versions) == ({*names[:2]}, 3)
    assert {key for key in keys(s3_api) if "/" not in key} == {names[2]}


def test_a_command_leaves_no_copy_on_the_machine_on_which_it_ran(s3_api: S3, tmp_path: Path) -> None:
    """Nobody would delete it there. The command may end in any way."""
    cache = tmp_path / "operator"
    program = (
        "import sys; from pathlib import Path; from expunge.operator.deployment import Deployment\n"
        f"where = Deployment(database_url='', storage={URL!r}, sample_key=b'', workloads='', storage_cache=Path({str(cache)!r}))\n"
        "path = where.files.fetch(*where.files.put(b'weights'))\n"
        "print(path.exists()); sys.exit('it failed')"
    )
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=PATIENCE)
    assert (ended.stdout, ended.stderr) == ("True\n", "it failed\n")
    assert [path.name for path in cache.iterdir() if path.is_file()] == []


@pytest.mark.slow
def test_reference_predictions_are_in_the_bucket_and_those_of_erased_samples_are_not(
    s3_api: S3, make_bench: Callable[..., Bench], training_ids: tuple[str, ...], tmp_path: Path, database_url: str
) -> None:
    s3_api.client.put_bucket_versioning(Bucket=BUCKET, VersioningConfiguration={"Status": "Enabled"})
    bench = make_bench(storage=URL, storage_cache=tmp_path / "worker")
    where = Deployment(
        database_url=database_url, storage=URL, sample_key=KEY, workloads="tests", storage_cache=tmp_path / "operator"
    )
    assert prepare_model(where, name="digits", plan=ReferencePlan(epochs=1.0)) is not None

    def find() -> tuple[str, set[bytes]]:
        with bench.sessions.begin() as session:
            file = find_references(session, session.scalars(select(Model.id)).one())
        assert file is not None
        return file.path, set(from_bytes(where.files.fetch(file.path, file.sha256).read_bytes()).keys)

    before, known = find()
    assert before in keys(s3_api)
    assert bench.run(job_id := bench.submit(training_ids[:20]))
    assert bench.job(job_id).state is JobState.COMPLETED
    after, left = find()
    assert known - left == {sample_digest(KEY, "tiny-digits", sample) for sample in training_ids[:20]}
    assert (before in keys(s3_api), after in keys(s3_api)) == (False, True)


def test_the_doctor_says_what_is_wrong_with_a_bucket(s3_api: S3, tmp_path: Path) -> None:
    settings = DeploymentSettings(
        database_url=None,
        redis_url=None,
        storage=URL,
        sample_key=None,
        signing_keys=None,
        workloads="",
        storage_cache=tmp_path / "cache",
    )
    assert check_storage(settings).ok
    s3_api.break_calls("PUT", s3.refuse("403 Forbidden", "AccessDenied"))
    found = check_storage(settings)
    assert not found.ok
    assert "permission denied" in found.text
