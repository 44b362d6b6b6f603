import os
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import text
from sqlalchemy.orm import Session, sessionmaker

from expunge.operator.purge import look, purge
from expunge.operator.registration import Place, register_workload
from expunge.operator.training import Trained, train_workload
from ledger.tables import Model, ModelVersion
from unlearning.storage import file_sha256

REFERENCE = "tests.worker.digits:workload"
AGE = timedelta(days=30)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    return train_workload(REFERENCE, allowed=("tests",), folder=tmp_path_factory.mktemp("weights"), plain=True)


@pytest.fixture
def where(database_url: str, weights: Trained, tmp_path: Path) -> Place:
    """An installation with one model."""
    place = Place(database_url=database_url, storage=tmp_path / "storage", sample_key=bytes(32), workloads="tests")
    register_workload(place, name="digits", reference=REFERENCE, weights=weights.path)
    return place


@pytest.fixture
def follow(where: Place, sessions: sessionmaker[Session]) -> Callable[[], str]:
    """Publishes a second version, the first being long superseded; gives the name of its file."""

    def publish() -> str:
        new = where.storage / "new"
        new.write_bytes(b"other weights")
        path = new.rename(where.storage / f"{file_sha256(new)}.safetensors")
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


def names(where: Place) -> set[str]:
    return {path.name for path in where.storage.iterdir()}


def old(path: Path) -> None:
    """Make a file two days old."""
    os.utime(path, (time.time() - 2 * 86400,) * 2)


def test_a_superseded_versions_weights_go_and_the_served_ones_stay(
    where: Place, follow: Callable[[], str], weights: Trained
) -> None:
    served = follow()
    going = look(where, older_than=AGE)
    assert [version.number for version in going.versions] == [1]
    assert names(where) == {served, f"{weights.sha256}.safetensors"}

    assert [path.name for path in purge(where, going, older_than=AGE)] == [f"{weights.sha256}.safetensors"]
    assert names(where) == {served}
    assert look(where, older_than=AGE).versions == []


def test_what_was_promoted_since_it_was_listed_stays(
    where: Place, follow: Callable[[], str], sessions: sessionmaker[Session]
) -> None:
    follow()
    going = look(where, older_than=AGE)
    with sessions.begin() as session:
        session.query(Model).one().served_version_id = going.versions[0].version_id

    assert purge(where, going, older_than=AGE) == []


def test_a_file_that_no_version_names_goes_when_it_is_a_day_old(where: Place, weights: Trained) -> None:
    for name in ("0" * 64 + ".safetensors", ".writing-x"):
        (where.storage / name).write_bytes(b"")
    assert look(where, older_than=AGE).litter == []

    for path in where.storage.iterdir():
        old(path)
    purge(where, look(where, older_than=AGE), older_than=AGE)
    assert names(where) == {f"{weights.sha256}.safetensors"}
