"""The doctor on deployments that are broken in one place each."""

import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from sqlalchemy import text
from sqlalchemy.orm import Session, sessionmaker
from torch import nn
from typer.testing import CliRunner

from connectors import storage
from expunge.cli import main as cli
from expunge.operator import doctor
from expunge.operator.deployment import Deployment, DeploymentSettings
from expunge.operator.doctor import examine
from expunge.operator.keys import create_signing_key
from expunge.operator.registration import register_workload
from expunge.operator.training import Trained, train_workload
from ledger.jobs.workers import WORKER, record_heartbeat
from ledger.transparency.signing_keys import revoke_signing_key
from tests.fixtures.postgresql import Filled
from tests.service.conftest import NOWHERE, redis_server
from tests.worker import digits
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


@pytest.fixture(scope="module")
def install(weights: Trained, tmp_path_factory: pytest.TempPathFactory) -> Callable[[sessionmaker[Session]], Path]:
    """Register a model and a key; gives the folder with the storage and the keys, which no test changes."""
    folder = tmp_path_factory.mktemp("installation")

    def make(sessions: sessionmaker[Session]) -> Path:
        url = sessions.kw["bind"].url.render_as_string(hide_password=False)
        where = Deployment(database_url=url, storage=folder / "storage", sample_key=bytes(32), workloads="tests")
        register_workload(
            where, name="digits", reference=REFERENCE, weights=weights.path, policy=["retrain"], dry_run=False
        )
        create_signing_key(url, folder / "keys")
        return folder

    return make


@pytest.fixture
def sound(
    database_url: str,
    broker_url: str,
    tmp_path: Path,
    sessions: sessionmaker[Session],
    filled: Filled,
    install: Callable[[sessionmaker[Session]], Path],
) -> DeploymentSettings:
    """A deployment with nothing wrong."""
    shutil.copytree(filled(install), tmp_path, dirs_exist_ok=True)
    with sessions.begin() as session:
        record_heartbeat(session, WORKER)
    return DeploymentSettings(
        database_url=database_url,
        redis_url=broker_url,
        storage=tmp_path / "storage",
        sample_key="00" * 32,
        signing_keys=tmp_path / "keys",
        workloads="tests",
    )


def wrong(installation: DeploymentSettings) -> dict[str, str]:
    """What is wrong, by check."""
    return {finding.check: finding.text for finding in examine(installation) if not finding.ok}


def test_a_sound_installation_is_sound_in_every_way(sound: DeploymentSettings) -> None:
    checks = [finding.check for finding in examine(sound)]

    assert wrong(sound) == {}
    assert checks == [
        *("sample key", "broker", "storage", "database", "schema", "clock", "ledger's key"),
        *("worker", "signing keys", "log", "weights", "workloads", "model digits", "model digits, worker"),
    ]


def test_the_command_ends_with_status_1_where_something_is_wrong(
    sound: DeploymentSettings, monkeypatch: pytest.MonkeyPatch
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


Break = Callable[[DeploymentSettings, Session], DeploymentSettings]


def weights_of(installation: DeploymentSettings) -> Path:
    assert installation.storage is not None
    (path,) = installation.storage.glob("*.safetensors")
    return path


def damage(installation: DeploymentSettings, session: Session) -> DeploymentSettings:
    weights_of(installation).write_bytes(b"no weights")
    return installation


def lose(installation: DeploymentSettings, session: Session) -> DeploymentSettings:
    weights_of(installation).unlink()
    return installation


def silence(installation: DeploymentSettings, session: Session) -> DeploymentSettings:
    session.execute(text("UPDATE heartbeats SET at = at - interval '1 hour'"))
    return installation


def forget_the_worker(installation: DeploymentSettings, session: Session) -> DeploymentSettings:
    session.execute(text("DELETE FROM heartbeats"))
    return installation


def rename_the_workload(installation: DeploymentSettings, session: Session) -> DeploymentSettings:
    session.execute(text("UPDATE models SET workload = 'tests.nowhere:workload'"))
    return installation


def private_half(installation: DeploymentSettings) -> Path:
    assert installation.signing_keys is not None
    (path,) = installation.signing_keys.glob("*.pem")
    return path


def lose_the_key(installation: DeploymentSettings, session: Session) -> DeploymentSettings:
    private_half(installation).unlink()
    return installation


def show_the_key(installation: DeploymentSettings, session: Session) -> DeploymentSettings:
    private_half(installation).chmod(0o640)
    return installation


def damage_the_key(installation: DeploymentSettings, session: Session) -> DeploymentSettings:
    private_half(installation).write_bytes(b"no key")
    return installation


def exchange_the_key(installation: DeploymentSettings, session: Session) -> DeploymentSettings:
    path = private_half(installation)
    other = make_key(path.parent)
    (path.parent / f"{other.key_id}.pem").rename(path)
    return installation


def revoke_the_key(installation: DeploymentSettings, session: Session) -> DeploymentSettings:
    revoke_signing_key(session, key_id=private_half(installation).stem, reason="stolen")
    return installation


@pytest.mark.parametrize(
    ("breaks", "check", "words"),
    [
        (lambda found, _: replace(found, redis_url=NOWHERE), "broker", "does not answer"),
        (lambda found, _: replace(found, redis_url=None), "broker", "REDIS_URL"),
        (lambda found, _: replace(found, sample_key=None), "sample key", "not set"),
        (lambda found, _: replace(found, sample_key="ab"), "sample key", "64 hex digits"),
        (lambda found, _: replace(found, sample_key="cd" * 32), "ledger's key", "another key"),
        (lambda found, _: replace(found, workloads="acme"), "workloads", "allow-list"),
        (damage, "weights", "1 damaged"),
        (lose, "weights", "1 missing"),
        (silence, "worker", "worker is up"),
        (forget_the_worker, "worker", "Start one"),
        (rename_the_workload, "workloads", "tests.nowhere"),
        (lose_the_key, "signing keys", "signing-keys new"),
        (revoke_the_key, "signing keys", "not revoked"),
        (show_the_key, "signing keys", "chmod 600"),
        (damage_the_key, "signing keys", "cannot be read"),
        (exchange_the_key, "signing keys", "another key"),
        (lambda found, _: replace(found, signing_keys=None), "signing keys", "although keys are registered"),
        (lambda found, _: replace(found, model_signing_key=Path("/nowhere")), "model signing", "cannot be read"),
    ],
)
def test_a_fault_is_found_and_nothing_else(
    sound: DeploymentSettings, sessions: sessionmaker[Session], breaks: Break, check: str, words: str
) -> None:
    with sessions.begin() as session:
        broken = breaks(sound, session)

    found = wrong(broken)

    assert set(found) == {check}
    assert words in found[check]


def test_the_signing_key_is_named_and_whether_it_is_the_newest(sound: DeploymentSettings, tmp_path: Path) -> None:
    first = private_half(sound).stem
    newest = create_signing_key(str(sound.database_url), tmp_path / "elsewhere").key_id

    (found,) = (finding for finding in examine(sound) if finding.check == "signing keys")

    assert found.ok
    assert f"{first[:16]} signs; the newest, {newest[:16]}, is not in" in found.text


def test_unsigned_results_are_no_fault_if_no_key_is_registered(
    sound: DeploymentSettings, sessions: sessionmaker[Session]
) -> None:
    with sessions.begin() as session:
        session.execute(text("DELETE FROM signing_keys"))

    (found,) = (f for f in examine(replace(sound, signing_keys=None)) if f.check == "signing keys")

    assert found.ok
    assert "results are not signed" in found.text


def test_a_database_that_does_not_answer_or_is_not_set_is_found(sound: DeploymentSettings) -> None:
    away = replace(sound, database_url="postgresql://nobody@127.0.0.1:1/nothing?connect_timeout=2")

    assert set(wrong(away)) == {"database"}
    assert "DATABASE_URL is not set" in wrong(replace(sound, database_url=None))["database"]


def test_a_database_without_tables_needs_its_migrations(sound: DeploymentSettings, blank_database_url: str) -> None:
    found = wrong(replace(sound, database_url=blank_database_url))

    assert set(found) == {"schema"}
    assert "migrations" in found["schema"]


def test_a_database_that_is_no_postgresql_is_a_fault_and_no_traceback(sound: DeploymentSettings) -> None:
    found = wrong(replace(sound, database_url="mysql://nobody:secret@127.0.0.1/x"))

    assert set(found) == {"database"}
    assert "must be PostgreSQL" in found["database"]
    assert "secret" not in found["database"]


def test_another_storage_lacks_the_weights_and_one_that_cannot_be_written_to_is_found(
    sound: DeploymentSettings, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()

    assert set(wrong(replace(sound, storage=tmp_path / "nowhere"))) == {"weights"}
    assert set(wrong(replace(sound, storage=tmp_path / "file/storage"))) == {"storage", "weights"}


def test_a_full_disk_is_found(sound: DeploymentSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage.shutil, "disk_usage", lambda path: SimpleNamespace(free=1000, total=10**12))

    assert "expunge purge" in wrong(sound)["storage"]


def test_a_wrong_clock_is_found(sound: DeploymentSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    class Late(datetime):
        @classmethod
        def now(cls, tz: object = None) -> datetime:
            return datetime.now(UTC) - timedelta(minutes=3)

    monkeypatch.setattr(doctor, "datetime", Late)

    assert "180.0 s ahead" in wrong(sound)["clock"]


def test_a_model_that_no_job_could_serve_is_named_with_what_its_own_code_says(
    sound: DeploymentSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after an update of the factory, or of a library."""

    def crash(*_: object) -> None:
        raise ValueError("image-7 has no colours")

    given = digits.workload()
    broken = replace(given, objective=replace(given.objective, losses=crash))
    monkeypatch.setattr(digits, "workload", lambda: broken)
    found = wrong(sound)
    assert list(found) == ["model digits"]
    assert "(an ID) has no colours" in found["model digits"]


def test_a_factory_that_builds_another_network_than_the_weights_are_of_is_found(
    sound: DeploymentSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = digits.workload()
    other = replace(given, build=lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 10)))
    monkeypatch.setattr(digits, "workload", lambda: other)
    found = wrong(sound)

    assert list(found) == ["model digits"]
    assert "does not fit the workload's architecture" in found["model digits"]


@pytest.mark.parametrize(("device", "says"), [("gpu", "set wrongly: EXPUNGE_DEVICE"), ("cuda", "CUDA finds no GPU")])
def test_a_device_that_there_is_not_is_found(
    sound: DeploymentSettings, monkeypatch: pytest.MonkeyPatch, device: str, says: str
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setenv("EXPUNGE_DEVICE", device)
    found = wrong(sound)

    assert list(found) == ["model digits"]
    assert says in found["model digits"]


@pytest.mark.parametrize(
    ("asked", "ended", "fault", "says"),
    [
        ("- interval '1 minute'", "now()", "EXPUNGE_SCANS is missing.", "start it again. EXPUNGE_SCANS"),
        ("- interval '1 hour'", "NULL", None, "has not said so"),
        ("- interval '1 minute'", "NULL", None, None),
        ("- interval '1 minute'", "now()", None, None),
    ],
)
def test_what_a_worker_found_out_about_a_model_is_shown(
    sound: DeploymentSettings,
    sessions: sessionmaker[Session],
    asked: str,
    ended: str,
    fault: str | None,
    says: str | None,
) -> None:
    with sessions.begin() as session:
        session.execute(
            text(f"UPDATE models SET check_asked_at = now() {asked}, check_ended_at = {ended}, check_fault = :fault"),
            {"fault": fault},
        )
    found = wrong(sound)
    assert list(found) == ([] if says is None else ["model digits, worker"])
    assert says is None or says in found["model digits, worker"]
