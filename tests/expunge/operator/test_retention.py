import os
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import text
from sqlalchemy.orm import Session, sessionmaker
from typer.testing import CliRunner

from connectors.storage import LocalFolder, SoftDeleted, StorageError, StorageForbidden
from expunge.cli.main import app
from expunge.errors import CopiesRefused
from expunge.operator.deployment import Deployment
from expunge.operator.registration import register_workload
from expunge.operator.retention import delete_copies, find_copies, find_purgeable, purge, unlink
from expunge.operator.training import Trained, train_workload
from ledger.errors import NotInReport, UnknownEntry
from ledger.events.hand_overs import plan_hand_overs, record_success, take_hand_over
from ledger.registry.access import issue_key
from ledger.registry.versions import record_fetch
from ledger.requests.submission import Submission, submit
from ledger.sample_ids import sample_digest
from ledger.tables import Job, Model, ModelVersion
from ledger.transparency.commitments import prove_inclusion
from ledger.transparency.log import LogKind, prove_entry, sign_checkpoint
from tests.fixtures.postgresql import Filled
from tests.ledger.conftest import KEY, World, make_world
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


def use(deployment: Deployment, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let commands find the deployment."""
    for name, value in (("DATABASE_URL", deployment.database_url), ("EXPUNGE_STORAGE", str(deployment.storage))):
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("EXPUNGE_SAMPLE_KEY", bytes(32).hex())


def test_a_purge_says_whether_there_is_anything_to_delete(
    deployment: Deployment, weights: Trained, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(deployment, monkeypatch)
    found = CliRunner().invoke(app, ["purge"])
    assert (found.exit_code, found.output) == (0, "There is nothing to delete.\n")
    unused = deployment.storage / f"{'0' * 64}.safetensors"
    unused.write_bytes(b"")
    make_old(unused)
    found = CliRunner().invoke(app, ["purge"])
    assert "Run again with --yes" in found.output
    assert unused.name in found.output


def test_a_file_that_the_storage_does_not_let_go_keeps_no_other_one(
    deployment: Deployment, weights: Trained, monkeypatch: pytest.MonkeyPatch
) -> None:
    unused = [f"{digit * 64}.safetensors" for digit in "012"]
    for name in unused:
        (deployment.storage / name).write_bytes(b"")
        make_old(deployment.storage / name)
    delete = LocalFolder.delete

    def hold(self: LocalFolder, name: str) -> int:
        if name == unused[0]:
            raise StorageError(f"1 of 2 versions of {name} are still in the bucket. Is it under a hold?")
        return delete(self, name)

    monkeypatch.setattr(LocalFolder, "delete", hold)
    use(deployment, monkeypatch)
    found = CliRunner().invoke(app, ["purge", "--yes"])
    assert found.exit_code == 1
    assert f"Not deleted: 1 of 2 versions of {unused[0]}" in " ".join(found.output.split())
    assert "Deleted 2 files, and verified that they are gone." in found.output
    assert names(deployment) == {unused[0], f"{weights.sha256}.safetensors"}


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (None, "Deleted 1 files, but soft delete keeps 1 of them until 2026-12-06 10:00 UTC"),
        (
            StorageForbidden("gs://x: permission denied"),
            "soft delete keeps them is not known: gs://x: permission denied",
        ),
    ],
)
def test_a_purge_does_not_say_that_a_file_is_gone_which_soft_delete_keeps(
    deployment: Deployment,
    follow: Callable[[], str],
    weights: Trained,
    monkeypatch: pytest.MonkeyPatch,
    error: Exception | None,
    said: str,
) -> None:
    follow()
    until = datetime(2026, 12, 6, 10, tzinfo=UTC)

    def keep(self: LocalFolder) -> Iterator[SoftDeleted]:
        if error is not None:
            raise error
        yield from (
            SoftDeleted(name, until) for name in (f"{weights.sha256}.safetensors", "deleted-before.safetensors")
        )

    monkeypatch.setattr(LocalFolder, "list_soft_deleted", keep)
    purged = purge(deployment, find_purgeable(deployment, older_than=AGE), older_than=AGE)
    assert purged.files == [f"{weights.sha256}.safetensors"]
    assert said in purged.outcome
    assert "verified that they are gone" not in purged.outcome


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
            Submission(tenant_id=tenant, caller="test", datasets=["scans"], digests=[digest], expedite=True),
            window=timedelta(0),
        )
    report_id = publish_job(sessions, str(request.targets[0].job.id))
    with sessions.begin() as session:
        sign_checkpoint(session, make_signer().checkpoint)
    sample = {"tenant": "clinic", "dataset": "scans", "sample_id": "sample-1", "requests": [request.id]}
    assert unlink(deployment, **sample) == (1, 1)
    given = {"tenant_id": tenant, "report_id": report_id, "key": key}
    with sessions() as session, pytest.raises(NotInReport):
        prove_inclusion(session, **given, dataset="scans", sample_id="sample-1", digest=digest)
    with sessions() as session, pytest.raises(UnknownEntry):
        prove_entry(session, LogKind.REQUEST, tenant_id=tenant, subject_id=request.id, sample_key=key)
    assert unlink(deployment, **sample) == (0, 0)


FIRST, SECOND = "first.safetensors", "cdcd.safetensors"


@pytest.fixture
def world(filled: Filled) -> World:
    return filled(make_world)


@pytest.fixture
def two_versions(database_url: str, tmp_path: Path) -> Deployment:
    """A storage with the weights of two versions."""
    for name in (FIRST, SECOND):
        (tmp_path / name).write_bytes(b"weights")
    return Deployment(database_url=database_url, storage=tmp_path, sample_key=KEY, workloads="tests")


@pytest.fixture
def spread(world: World) -> World:
    """The first version of `small` went to a model server and was fetched; the second one forgot two samples. `large` has weights
    of its own.
    """
    with world.sessions.begin() as session:
        large = session.query(Model).filter_by(name="large").one()
        session.get_one(ModelVersion, large.served_version_id).weights_path = "large.safetensors"
    hand_over(world)
    with world.sessions.begin() as session:
        key = issue_key(session, tenant_id=world.tenant_id, name="batch scoring", scopes=["weights:read"]).key
        version = session.scalar(
            text("SELECT v.id FROM model_versions v JOIN models m ON m.id = v.model_id WHERE m.name = 'small'")
        )
        record_fetch(session, version_id=version, key_id=key.id)
    world.finish(world.submit_and_claim(1, 2))
    hand_over(world)
    return world


def hand_over(world: World) -> None:
    with world.sessions.begin() as session:
        plan_hand_overs(
            session, connector="triton", tenant="hospital", concerns=lambda model: model == "small", withdraws=False
        )
        taken = take_hand_over(session, "triton")
        assert taken is not None
        record_success(session, taken, place=f"http://triton/{taken.version}")


def test_a_model_without_erasures_has_nothing_to_delete(world: World, two_versions: Deployment) -> None:
    found = find_copies(two_versions, model="small", tenant="hospital")
    assert [(version.number, version.knows, version.served) for version in found.versions] == [(1, 0, True)]
    assert (found.deletable.versions, found.left) == ([], [])
    with pytest.raises(CopiesRefused, match="large2"):
        find_copies(two_versions, model="large2", tenant="hospital")


def test_copies_that_know_erased_people_are_listed_and_deleted_or_left_to_the_operator(
    spread: World, two_versions: Deployment, tmp_path: Path
) -> None:
    found = find_copies(two_versions, model="small", tenant="hospital")
    assert [(version.number, version.knows) for version in found.versions] == [(2, 0), (1, 2)]
    assert [version.number for version in found.deletable.versions] == [1]
    first = found.versions[1]
    assert [(each.connector, each.place) for each in first.handed] == [("triton", "http://triton/1")]
    assert [(each.name, each.times) for each in first.fetched] == [("batch scoring", 1)]
    assert len(found.left) == 2  # the server's copy, and that of whoever fetched it

    assert delete_copies(two_versions, found).files == [FIRST]
    assert not (tmp_path / FIRST).exists()
    assert (tmp_path / SECOND).exists()
    after = find_copies(two_versions, model="small", tenant="hospital")
    assert (after.versions[1].purged_at is not None, after.versions[1].stored) == (True, False)
    assert (after.deletable.versions, len(after.left)) == ([], 2)
    assert any("triton" in sentence for sentence in after.left)
    assert any("batch scoring" in sentence for sentence in after.left)


def test_a_purged_version_whose_file_another_model_has_is_not_called_deleted(
    spread: World, two_versions: Deployment, tmp_path: Path
) -> None:
    with spread.sessions.begin() as session:
        large = session.query(Model).filter_by(name="large").one()
        session.get_one(ModelVersion, large.served_version_id).weights_path = FIRST
    assert delete_copies(two_versions, find_copies(two_versions, model="small", tenant="hospital")).files == []
    found = find_copies(two_versions, model="small", tenant="hospital")
    assert [(version.purged_at is not None, version.stored) for version in found.versions] == [
        (False, True),
        (True, True),
    ]
    assert any("the same file first.safetensors" in sentence for sentence in found.left)
    assert (tmp_path / FIRST).exists()


def test_a_purged_version_whose_file_was_not_deleted_is_not_called_deleted(
    spread: World, two_versions: Deployment, tmp_path: Path
) -> None:
    """As after a purge that was killed between its commit and the deletion."""
    delete_copies(two_versions, find_copies(two_versions, model="small", tenant="hospital"))
    (tmp_path / FIRST).write_bytes(b"weights")
    found = find_copies(two_versions, model="small", tenant="hospital")
    assert (found.versions[1].stored, found.undeleted) == (True, {FIRST})
    assert any("is still in the storage" in sentence for sentence in found.left)
    os.utime(tmp_path / FIRST, (0, 0))
    assert delete_copies(two_versions, found).files == [FIRST]
    assert find_copies(two_versions, model="small", tenant="hospital").undeleted == frozenset()


def test_copies_that_soft_delete_keeps_are_left_to_the_operator(
    spread: World, two_versions: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    delete_copies(two_versions, find_copies(two_versions, model="small", tenant="hospital"))
    until = datetime(2026, 12, 6, 10, tzinfo=UTC)
    monkeypatch.setattr(LocalFolder, "list_soft_deleted", lambda self: iter([SoftDeleted(FIRST, until)]))
    found = find_copies(two_versions, model="small", tenant="hospital")
    assert (found.versions[1].stored, found.kept.files) == (False, {FIRST: until})
    assert any("soft delete keeps its file first.safetensors until 2026-12-06 10:00 UTC" in each for each in found.left)

    def refuse(self: LocalFolder) -> Iterator[SoftDeleted]:
        raise StorageForbidden("gs://x: permission denied")

    monkeypatch.setattr(LocalFolder, "list_soft_deleted", refuse)
    found = find_copies(two_versions, model="small", tenant="hospital")
    assert any("is not known: gs://x: permission denied" in each for each in found.left)


def test_a_version_that_an_open_job_starts_from_is_not_deleted(spread: World, two_versions: Deployment) -> None:
    open_job = spread.submit_and_claim(3).job_id
    first = find_copies(two_versions, model="small", tenant="hospital").versions[-1]
    with spread.sessions.begin() as session:
        session.get_one(Job, open_job).base_version_id = first.version_id
    found = find_copies(two_versions, model="small", tenant="hospital")
    assert found.deletable.versions == []
    assert any("needed" in sentence for sentence in found.left)


def test_the_command_lists_and_deletes(
    spread: World, two_versions: Deployment, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    where = replace(two_versions, sample_key=KEY)
    monkeypatch.setenv("DATABASE_URL", where.database_url)
    monkeypatch.setenv("EXPUNGE_STORAGE", str(where.storage))
    monkeypatch.setenv("EXPUNGE_SAMPLE_KEY", KEY.hex())

    def run(*more: str) -> str:
        return CliRunner().invoke(app, ["copies", "small", "--tenant", "hospital", *more]).output

    listed = run()
    assert "2 erased samples" in listed
    assert "batch scoring" in listed
    assert "--delete" in listed
    assert "Deleted 1 files" in run("--delete")
    assert not (tmp_path / FIRST).exists()
    assert any(FIRST in line and "deleted" in line for line in run().splitlines())  # on one line: no terminal limits it
