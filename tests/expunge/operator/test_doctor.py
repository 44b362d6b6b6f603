"""The doctor on installations that are broken in one place each."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace

import pytest
from sqlalchemy import text
from sqlalchemy.orm import Session, sessionmaker
from typer.testing import CliRunner

from expunge.cli import main as cli
from expunge.operator import doctor
from expunge.operator.doctor import Installation, examine
from expunge.operator.keys import new_signing_key
from expunge.operator.registration import Place, register_workload
from expunge.operator.training import Trained, train_workload
from ledger.jobs.heartbeats import SWEEP, record_heartbeat
from ledger.transparency.signing_keys import revoke_signing_key
from tests.service.conftest import NOWHERE, redis_server
from worker.signing import make_key

REFERENCE = "tests.worker.digits:workload"


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    return train_workload(REFERENCE, allowed=("tests",), folder=tmp_path_factory.mktemp("weights"), plain=True)


@pytest.fixture(scope="module")
def broker_url() -> Iterator[str]:
    """A Redis-protocol server for this file."""
    with redis_server() as url:
        yield url


@pytest.fixture
def sound(
    database_url: str, broker_url: str, weights: Trained, tmp_path: Path, sessions: sessionmaker[Session]
) -> Installation:
    """An installation with nothing wrong."""
    storage = tmp_path / "storage"
    where = Place(database_url=database_url, storage=storage, sample_key=bytes(32), workloads="tests")
    register_workload(where, name="digits", reference=REFERENCE, weights=weights.path)
    new_signing_key(database_url, tmp_path / "keys")
    with sessions.begin() as session:
        record_heartbeat(session, SWEEP)
    return Installation(
        database_url=database_url,
        redis_url=broker_url,
        storage=storage,
        sample_key="00" * 32,
        signing_keys=tmp_path / "keys",
        workloads="tests",
    )


def wrong(installation: Installation) -> dict[str, str]:
    """What is wrong, by check."""
    return {finding.check: finding.text for finding in examine(installation) if not finding.fine}


def test_a_sound_installation_is_sound_in_every_way(sound: Installation) -> None:
    checks = [finding.check for finding in examine(sound)]

    assert wrong(sound) == {}
    assert checks == [
        *("sample key", "broker", "storage", "database", "schema", "clock"),
        *("worker", "signing keys", "weights", "workloads"),
    ]


def test_the_command_ends_with_status_1_where_something_is_wrong(
    sound: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {
        "DATABASE_URL": str(sound.database_url),
        "REDIS_URL": str(sound.redis_url),
        "EXPUNGE_STORAGE": str(sound.storage),
        "EXPUNGE_SAMPLE_KEY": str(sound.sample_key),
        "EXPUNGE_SIGNING_KEYS": str(sound.signing_keys),
        "EXPUNGE_WORKLOADS": sound.workloads,
    }.items():
        monkeypatch.setenv(name, value)
    assert CliRunner().invoke(cli.app, ["doctor"]).exit_code == 0

    monkeypatch.setenv("REDIS_URL", NOWHERE)
    found = CliRunner().invoke(cli.app, ["doctor"])
    assert (found.exit_code, "broker" in found.output) == (1, True)


Break = Callable[[Installation, Session], Installation]


def weights_of(installation: Installation) -> Path:
    assert installation.storage is not None
    (path,) = installation.storage.glob("*.safetensors")
    return path


def damage(installation: Installation, session: Session) -> Installation:
    weights_of(installation).write_bytes(b"no weights")
    return installation


def lose(installation: Installation, session: Session) -> Installation:
    weights_of(installation).unlink()
    return installation


def silence(installation: Installation, session: Session) -> Installation:
    session.execute(text("UPDATE heartbeats SET at = at - interval '1 hour'"))
    return installation


def forget_the_worker(installation: Installation, session: Session) -> Installation:
    session.execute(text("DELETE FROM heartbeats"))
    return installation


def rename_the_workload(installation: Installation, session: Session) -> Installation:
    session.execute(text("UPDATE models SET workload = 'tests.nowhere:workload'"))
    return installation


def private_half(installation: Installation) -> Path:
    assert installation.signing_keys is not None
    (path,) = installation.signing_keys.glob("*.pem")
    return path


def lose_the_key(installation: Installation, session: Session) -> Installation:
    private_half(installation).unlink()
    return installation


def show_the_key(installation: Installation, session: Session) -> Installation:
    private_half(installation).chmod(0o640)
    return installation


def damage_the_key(installation: Installation, session: Session) -> Installation:
    private_half(installation).write_bytes(b"no key")
    return installation


def exchange_the_key(installation: Installation, session: Session) -> Installation:
    path = private_half(installation)
    other = make_key(path.parent)
    (path.parent / f"{other.key_id}.pem").rename(path)
    return installation


def revoke_the_key(installation: Installation, session: Session) -> Installation:
    revoke_signing_key(session, key_id=private_half(installation).stem, reason="stolen")
    return installation


@pytest.mark.parametrize(
    ("breaks", "check", "told"),
    [
        (lambda found, _: replace(found, redis_url=NOWHERE), "broker", "does not answer"),
        (lambda found, _: replace(found, redis_url=None), "broker", "REDIS_URL"),
        (lambda found, _: replace(found, sample_key=None), "sample key", "not set"),
        (lambda found, _: replace(found, sample_key="ab"), "sample key", "64 hex digits"),
        (lambda found, _: replace(found, workloads="acme"), "workloads", "allow-list"),
        (damage, "weights", "1 damaged"),
        (lose, "weights", "1 missing"),
        (silence, "worker", "is the beat"),
        (forget_the_worker, "worker", "start a worker"),
        (rename_the_workload, "workloads", "tests.nowhere"),
        (lose_the_key, "signing keys", "signing-keys new"),
        (revoke_the_key, "signing keys", "not revoked"),
        (show_the_key, "signing keys", "chmod 600"),
        (damage_the_key, "signing keys", "cannot be read"),
        (exchange_the_key, "signing keys", "another key"),
        (lambda found, _: replace(found, signing_keys=None), "signing keys", "though keys are registered"),
    ],
)
def test_what_is_broken_is_told_and_nothing_else(
    sound: Installation, sessions: sessionmaker[Session], breaks: Break, check: str, told: str
) -> None:
    with sessions.begin() as session:
        broken = breaks(sound, session)

    found = wrong(broken)

    assert set(found) == {check}
    assert told in found[check]


def test_what_signs_is_told_and_whether_that_is_the_newest_key(sound: Installation, tmp_path: Path) -> None:
    first = private_half(sound).stem
    newest = new_signing_key(str(sound.database_url), tmp_path / "elsewhere").key_id

    (found,) = (finding for finding in examine(sound) if finding.check == "signing keys")

    assert found.fine
    assert f"{first[:16]} signs; the newest, {newest[:16]}, is not in" in found.text


def test_who_wants_nothing_signed_is_told_so_and_is_not_sick(
    sound: Installation, sessions: sessionmaker[Session]
) -> None:
    with sessions.begin() as session:
        session.execute(text("DELETE FROM signing_keys"))

    (found,) = (f for f in examine(replace(sound, signing_keys=None)) if f.check == "signing keys")

    assert found.fine
    assert "results are not signed" in found.text


def test_a_database_that_is_away_or_not_there_is_told(sound: Installation) -> None:
    away = replace(sound, database_url="postgresql://nobody@127.0.0.1:1/nothing?connect_timeout=2")

    assert set(wrong(away)) == {"database"}
    assert "DATABASE_URL is not set" in wrong(replace(sound, database_url=None))["database"]


def test_a_database_without_tables_needs_its_migrations(sound: Installation, blank_database_url: str) -> None:
    found = wrong(replace(sound, database_url=blank_database_url))

    assert set(found) == {"schema"}
    assert "run the migrations" in found["schema"]


def test_a_storage_that_is_not_there_is_told(sound: Installation, tmp_path: Path) -> None:
    found = wrong(replace(sound, storage=tmp_path / "nowhere"))

    assert set(found) == {"storage", "weights"}


def test_a_full_disk_is_told(sound: Installation, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda path: SimpleNamespace(free=1000))

    assert "expunge purge" in wrong(sound)["storage"]


def test_a_clock_that_is_wrong_is_told(sound: Installation, monkeypatch: pytest.MonkeyPatch) -> None:
    class Late(datetime):
        @classmethod
        def now(cls, tz: object = None) -> datetime:
            return datetime.now(UTC) - timedelta(minutes=3)

    monkeypatch.setattr(doctor, "datetime", Late)

    assert wrong(sound)["clock"].startswith("180.")
