import os
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import text
from sqlalchemy.orm import Session, sessionmaker

from expunge.operator.deployment import Deployment
from expunge.operator.registration import register_workload
from expunge.operator.retention import find_purgeable, purge, unlink_sample
from expunge.operator.training import Trained, train_workload
from ledger.errors import NotInReport, UnknownEntry
from ledger.requests.submission import submit
from ledger.sample_ids import sample_digest
from ledger.tables import Model, ModelVersion
from ledger.transparency.commitments import prove_inclusion
from ledger.transparency.log import LogKind, prove_entry, sign_checkpoint
from tests.service.conftest import SAMPLE_KEY, publish_job, set_up
from tests.verifier.conftest import make_signer
from unlearning.files import file_sha256

REFERENCE = "tests.worker.digits:workload"
AGE = timedelta(days=30)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    return train_workload(REFERENCE, allowed=("tests",), folder=tmp_path_factory.mktemp("weights"), plain=True)


@pytest.fixture
def deployment(database_url: str, weights: Trained, tmp_path: Path) -> Deployment:
    """A deployment with one model."""
    made = Deployment(database_url=database_url, storage=tmp_path / "storage", sample_key=bytes(32), workloads="tests")
    register_workload(made, name="digits", reference=REFERENCE, weights=weights.path)
    return made


@pytest.fixture
def follow(deployment: Deployment, sessions: sessionmaker[Session]) -> Callable[[], str]:
    """Publishes a second version, so that the first is superseded for 40 days; returns its file's name."""

    def publish() -> str:
        new = deployment.storage / "new"
        new.write_bytes(b"other weights")
        path = new.rename(deployment.storage / f"{file_sha256(new)}.safetensors")
        with sessions.begin() as session:
            model = session.query(Model).one()
            version = ModelVersion(
                model_id=model.id, number=2, kind="trained", weights_sha256=path.stem, weights_path=path.name
            )
            session.add(version)
            session.flush()
            model.served_version_id = version.id
            session.execute(text("UPDATE model_versions SET created_at = created_at - interval '40 days'"))
        return path.name

    return publish


def names(deployment: Deployment) -> set[str]:
    return {path.name for path in deployment.storage.iterdir()}


def make_old(path: Path) -> None:
    """Make a file two days old."""
    os.utime(path, (time.time() - 2 * 86400,) * 2)


def test_a_superseded_versions_weights_are_deleted_and_the_served_ones_stay(
    deployment: Deployment, follow: Callable[[], str], weights: Trained
) -> None:
    served = follow()
    purgeable = find_purgeable(deployment, older_than=AGE)
    assert [version.number for version in purgeable.versions] == [1]
    assert names(deployment) == {served, f"{weights.sha256}.safetensors"}

    assert purge(deployment, purgeable, older_than=AGE).files == [f"{weights.sha256}.safetensors"]
    assert names(deployment) == {served}
    assert find_purgeable(deployment, older_than=AGE).versions == []


def test_a_version_promoted_since_it_was_listed_stays(
    deployment: Deployment, follow: Callable[[], str], sessions: sessionmaker[Session]
) -> None:
    follow()
    purgeable = find_purgeable(deployment, older_than=AGE)
    with sessions.begin() as session:
        session.query(Model).one().served_version_id = purgeable.versions[0].version_id

    assert purge(deployment, purgeable, older_than=AGE).files == []


def test_a_file_that_no_version_names_is_deleted_when_it_is_a_day_old(deployment: Deployment, weights: Trained) -> None:
    for name in ("0" * 64 + ".safetensors", ".writing-x"):
        (deployment.storage / name).write_bytes(b"")
    assert find_purgeable(deployment, older_than=AGE).unused_files == []

    for path in deployment.storage.iterdir():
        make_old(path)
    purge(deployment, find_purgeable(deployment, older_than=AGE), older_than=AGE)
    assert names(deployment) == {f"{weights.sha256}.safetensors"}


def test_a_sample_is_unlinked_from_commitments_and_log_for_ever(
    database_url: str, sessions: sessionmaker[Session], tmp_path: Path
) -> None:
    key = bytes.fromhex(SAMPLE_KEY)
    deployment = Deployment(database_url=database_url, storage=tmp_path, sample_key=key, workloads="tests")
    digest = sample_digest(key, "scans", "sample-1")
    with sessions.begin() as session:
        tenant = set_up(session).tenant_id
        request = submit(
            session,
            tenant_id=tenant,
            caller="test",
            dataset="scans",
            digests=[digest],
            expedite=True,
            batch_window=timedelta(0),
        )
    report_id = publish_job(sessions, str(request.targets[0].job.id))
    with sessions.begin() as session:
        sign_checkpoint(session, make_signer().checkpoint)
    sample = {"tenant": "clinic", "dataset": "scans", "sample_id": "sample-1", "requests": [request.id]}
    assert unlink_sample(deployment, **sample) == (1, 1)
    given = {"tenant_id": tenant, "report_id": report_id, "dataset": "scans", "sample_id": "sample-1", "digest": digest}
    with sessions() as session, pytest.raises(NotInReport):
        prove_inclusion(session, **given)
    with sessions() as session, pytest.raises(UnknownEntry):
        prove_entry(session, LogKind.REQUEST, tenant_id=tenant, subject_id=request.id)
    assert unlink_sample(deployment, **sample) == (0, 0)
