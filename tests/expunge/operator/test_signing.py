"""The command `expunge sign`, and what the worker would sign with the same key."""

import hashlib
from pathlib import Path

import pytest
from sqlalchemy import text
from sqlalchemy.orm import Session, sessionmaker
from typer.testing import CliRunner

from connectors.model_signing import read_model_key
from expunge.cli.main import app
from expunge.errors import SigningRefused
from expunge.operator.deployment import Deployment
from expunge.operator.signing import HAD_ONE, KNOWS_ERASED, sign_versions
from tests.connectors.test_model_signing import write_key
from tests.fixtures.postgresql import Filled
from tests.ledger.conftest import KEY, World, make_world

DIGEST = hashlib.sha256(b"weights").hexdigest()


@pytest.fixture
def world(filled: Filled, sessions: sessionmaker[Session]) -> World:
    world: World = filled(make_world)
    world.finish(world.submit_and_claim(1))
    with sessions.begin() as session:
        session.execute(
            text("UPDATE model_versions SET weights_sha256 = :sha256, knows_erased = false"), {"sha256": DIGEST}
        )
    return world


@pytest.fixture
def deployment(world: World, database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Deployment:
    """A storage with the weights of both versions, and a key."""
    for name in ("first.safetensors", "cdcd.safetensors"):
        (tmp_path / name).write_bytes(b"weights")
    monkeypatch.setenv("EXPUNGE_MODEL_SIGNING_KEY", str(write_key(tmp_path)))
    return Deployment(database_url=database_url, storage=tmp_path, sample_key=KEY, workloads="tests")


def sign(deployment: Deployment, model: str = "small") -> list[tuple[int, str]]:
    return [(one.number, one.outcome) for one in sign_versions(deployment, model=model, tenant="hospital")]


def test_each_version_is_signed_once_with_each_key(deployment: Deployment, world: World, tmp_path: Path) -> None:
    assert sign(deployment) == [(1, "signed"), (2, "signed")]
    assert sign(deployment) == [(1, HAD_ONE), (2, HAD_ONE)]
    write_key(tmp_path)  # another one
    assert sign(deployment) == [(1, "signed"), (2, "signed")]
    with world.sessions() as session:
        found = session.scalars(text("SELECT signature FROM model_versions WHERE signature IS NOT NULL")).all()
    signer = read_model_key(tmp_path / "model-key.pem")
    assert [signer.has_signed(bundle) for bundle in found] == [True, True]


def test_a_version_that_knows_erased_people_gets_no_signature(deployment: Deployment, world: World) -> None:
    with world.sessions.begin() as session:
        session.execute(text("UPDATE model_versions SET knows_erased = true WHERE number = 1"))
    assert sign(deployment) == [(1, KNOWS_ERASED), (2, "signed")]
    assert world.count("model_versions", "signature IS NOT NULL") == 1


def test_weights_that_are_not_as_recorded_are_not_signed(deployment: Deployment, world: World, tmp_path: Path) -> None:
    (tmp_path / "cdcd.safetensors").write_bytes(b"other")
    with pytest.raises(SigningRefused, match="Version 2 was not signed"):
        sign(deployment)
    assert world.count("model_versions", "signature IS NOT NULL") == 1
    (tmp_path / "cdcd.safetensors").unlink()
    with pytest.raises(SigningRefused, match="cannot be read"):
        sign(deployment)


def test_without_a_key_or_a_model_the_command_says_what_is_missing(
    deployment: Deployment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(SigningRefused, match="no model named"):
        sign(deployment, "unknown")
    (tmp_path / "model-key.pem").chmod(0o644)
    with pytest.raises(SigningRefused, match="chmod 600"):
        sign(deployment)
    monkeypatch.delenv("EXPUNGE_MODEL_SIGNING_KEY")
    with pytest.raises(SigningRefused, match="is not set"):
        sign(deployment)


def test_the_command_lists_what_it_has_signed(deployment: Deployment, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", deployment.database_url)
    monkeypatch.setenv("EXPUNGE_STORAGE", str(deployment.storage))
    monkeypatch.setenv("EXPUNGE_SAMPLE_KEY", KEY.hex())
    run = CliRunner().invoke(app, ["sign", "small", "--tenant", "hospital"])
    assert run.exit_code == 0, run.output
    assert run.output.splitlines() == [f"version {number}  {DIGEST}  signed" for number in (1, 2)]
