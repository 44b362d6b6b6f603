"""The checklist of a model's copies, and the deletion of what Expunge may delete."""

from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy import text
from sqlalchemy.orm import Session, sessionmaker
from typer.testing import CliRunner

from expunge.cli import console
from expunge.cli.main import app
from expunge.errors import CopiesRefused
from expunge.operator.copies import delete_copies, find_copies
from expunge.operator.deployment import Deployment
from ledger.events.hand_overs import plan_hand_overs, record_success, take_hand_over
from ledger.registry.access import issue_key
from ledger.registry.serving import record_fetch
from ledger.tables import Job, Model, ModelVersion
from tests.ledger.conftest import KEY, World, make_world

FIRST, SECOND = "first.safetensors", "cdcd.safetensors"


@pytest.fixture
def world(sessions: sessionmaker[Session]) -> World:
    return make_world(sessions)


@pytest.fixture
def deployment(database_url: str, tmp_path: Path) -> Deployment:
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


def test_a_model_without_erasures_has_nothing_to_delete(world: World, deployment: Deployment) -> None:
    found = find_copies(deployment, model="small", tenant="hospital")
    assert [(version.number, version.knows, version.served) for version in found.versions] == [(1, 0, True)]
    assert (found.deletable.versions, found.left) == ([], [])
    with pytest.raises(CopiesRefused, match="large2"):
        find_copies(deployment, model="large2", tenant="hospital")


def test_copies_that_know_erased_people_are_listed_and_deleted_or_left_to_the_operator(
    spread: World, deployment: Deployment, tmp_path: Path
) -> None:
    found = find_copies(deployment, model="small", tenant="hospital")
    assert [(version.number, version.knows) for version in found.versions] == [(2, 0), (1, 2)]
    assert [version.number for version in found.deletable.versions] == [1]
    first = found.versions[1]
    assert [(each.connector, each.place) for each in first.handed] == [("triton", "http://triton/1")]
    assert [(each.name, each.times) for each in first.fetched] == [("batch scoring", 1)]
    assert len(found.left) == 2  # the server's copy, and that of whoever fetched it

    assert delete_copies(deployment, found).files == [FIRST]
    assert not (tmp_path / FIRST).exists()
    assert (tmp_path / SECOND).exists()
    after = find_copies(deployment, model="small", tenant="hospital")
    assert after.versions[1].purged_at is not None
    assert (after.deletable.versions, len(after.left)) == ([], 2)
    assert any("triton" in sentence for sentence in after.left)
    assert any("batch scoring" in sentence for sentence in after.left)


def test_a_version_that_an_open_job_starts_from_is_not_deleted(spread: World, deployment: Deployment) -> None:
    open_job = spread.submit_and_claim(3).job_id
    first = find_copies(deployment, model="small", tenant="hospital").versions[-1]
    with spread.sessions.begin() as session:
        session.get_one(Job, open_job).base_version_id = first.version_id
    found = find_copies(deployment, model="small", tenant="hospital")
    assert found.deletable.versions == []
    assert any("needed" in sentence for sentence in found.left)


def test_the_command_lists_and_deletes(
    spread: World, deployment: Deployment, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    where = replace(deployment, sample_key=KEY)
    monkeypatch.setenv("DATABASE_URL", where.database_url)
    monkeypatch.setenv("EXPUNGE_STORAGE", str(where.storage))
    monkeypatch.setenv("EXPUNGE_SAMPLE_KEY", KEY.hex())
    monkeypatch.setattr(console.out, "_width", 200)

    def run(*more: str) -> str:
        return CliRunner().invoke(app, ["copies", "small", "--tenant", "hospital", *more]).output

    listed = run()
    assert "2 erased samples" in listed
    assert "batch scoring" in listed
    assert "--delete" in listed
    assert "Deleted 1 files" in run("--delete")
    assert not (tmp_path / FIRST).exists()
