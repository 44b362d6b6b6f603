import hashlib
import os
import signal
import warnings
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from sqlalchemy import make_url, select, text
from sqlalchemy.orm import Session, sessionmaker
from typer.testing import CliRunner

from connectors.model_signing import read_model_key
from connectors.storage import LocalFolder, StorageError
from expunge.cli.main import app
from expunge.errors import KeyCommandRefused, SigningRefused, StackError
from expunge.operator.deployment import Deployment
from expunge.operator.keys import (
    HAD_ONE,
    KNOWS_ERASED,
    create_signing_key,
    ensure_signing_key,
    list_signing_keys,
    revoke_signing_key,
    rotate_sample_key,
    sign_versions,
)
from ledger import sample_key
from ledger.registry.references import ReferenceFile, register_references
from ledger.sample_ids import parse_sample_key, sample_digest
from ledger.sample_key import check_sample_key
from ledger.tables import ReferenceSet
from tests.connectors.test_model_signing import write_key
from tests.fixtures.postgresql import Filled
from tests.ledger.conftest import KEY as WORLD_KEY
from tests.ledger.conftest import World, make_world
from tests.service.conftest import SAMPLE_KEY, set_up
from unlearning.data.references import References, from_bytes, to_bytes


def private_keys(folder: Path) -> set[str]:
    return {path.stem for path in folder.glob("*.pem")}


def test_rotation_makes_a_newer_key_and_leaves_the_older_one_good(database_url: str, tmp_path: Path) -> None:
    first, second = (create_signing_key(database_url, tmp_path) for _ in range(2))
    assert [key.key_id for key in list_signing_keys(database_url)] == [second.key_id, first.key_id]
    assert private_keys(tmp_path) == {first.key_id, second.key_id}


def test_revoking_deletes_the_private_half(database_url: str, tmp_path: Path) -> None:
    key = create_signing_key(database_url, tmp_path)
    revoke_signing_key(database_url, tmp_path, prefix=key.key_id[:8], reason="stolen")
    assert private_keys(tmp_path) == set()
    assert [found.revocation_reason for found in list_signing_keys(database_url)] == ["stolen"]


def test_a_prefix_of_no_key_or_of_several_is_refused(database_url: str, tmp_path: Path) -> None:
    create_signing_key(database_url, tmp_path)
    create_signing_key(database_url, tmp_path)
    for prefix in ("", "xyz"):
        with pytest.raises(KeyCommandRefused):
            revoke_signing_key(database_url, tmp_path, prefix=prefix, reason="?")


def test_a_command_on_another_releases_schema_says_what_to_run(database_url: str) -> None:
    without_tables = make_url(database_url).set(database="postgres").render_as_string(hide_password=False)
    with pytest.raises(StackError, match="alembic upgrade head"):
        list_signing_keys(without_tables)


def test_a_signing_key_is_created_once(database_url: str, tmp_path: Path) -> None:
    ensure_signing_key(database_url, tmp_path)
    ensure_signing_key(database_url, tmp_path)
    assert len(list_signing_keys(database_url)) == 1


def test_a_key_that_could_not_be_registered_is_deleted(tmp_path: Path) -> None:
    with pytest.raises(StackError):
        create_signing_key("postgresql://127.0.0.1:1/nowhere", tmp_path)
    assert private_keys(tmp_path) == set()


KEY = bytes.fromhex(SAMPLE_KEY)


def rotate_until(moment: str, where: Deployment, following: Path, own: Path) -> int:
    """Rotate in a process of its own, which is killed at the given moment; gives its status."""

    def die(*_: object) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of Python 3.12 and later, of forks beside threads
        pid = os.fork()
    if pid == 0:
        try:
            if moment == "before the commit":
                sample_key._rewrite_references = die  # type: ignore[assignment]
            else:
                Path.replace = die  # type: ignore[assignment, method-assign]
            rotate_sample_key(where, following, adopt=own)
        finally:
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


@pytest.fixture
def deployment(database_url: str, sessions: sessionmaker[Session], tmp_path: Path) -> Deployment:
    """The usual site, whose model has reference predictions of two samples, in the folder of a stack with a key of its own."""
    made = Deployment(database_url=database_url, storage=tmp_path, sample_key=KEY, workloads="tests")
    content = to_bytes(
        References(
            keys=tuple(sample_digest(KEY, "scans", f"sample-{number}") for number in range(2)),
            predictions=torch.zeros(2, 1),
            losses=torch.zeros(2),
            unseen=torch.zeros(2),
            seen=torch.zeros(2),
            details={},
        )
    )
    path, sha256 = made.files.put(content)
    with sessions.begin() as session:
        site = set_up(session)
        check_sample_key(session, KEY)
        file = ReferenceFile(sha256=sha256, path=path)
        register_references(session, tenant_id=site.tenant_id, model="triage", file=file, details={})
    (tmp_path / "own").write_text(SAMPLE_KEY)
    return made


def test_a_rotation_that_is_killed_twice_is_finished_by_the_third_run(
    deployment: Deployment, sessions: sessionmaker[Session], tmp_path: Path
) -> None:
    """Killed when all rows are hashed on but nothing is committed, and again when the stack's own key is still the old one."""
    own, following = tmp_path / "own", tmp_path / "next"
    for moment in ("before the commit", "after it"):
        assert rotate_until(moment, deployment, following, own) == -signal.SIGKILL
        new = parse_sample_key(following.read_text())
        assert new[:32] == KEY
        assert own.read_text() == SAMPLE_KEY
        with sessions.begin() as session:
            check_sample_key(session, KEY if moment == "before the commit" else new)
    assert rotate_sample_key(deployment, following, adopt=own) is None
    assert own.read_text() == new.hex()
    assert not following.exists()
    with sessions.begin() as session:
        check_sample_key(session, new)
        file = session.scalars(select(ReferenceSet)).one()
    content = (tmp_path / file.path).read_bytes()
    assert from_bytes(content).keys == tuple(sample_digest(new, "scans", f"sample-{number}") for number in range(2))


def test_the_file_of_references_under_the_old_key_is_deleted(deployment: Deployment, tmp_path: Path) -> None:
    before = set(tmp_path.glob("*.safetensors"))
    found = rotate_sample_key(deployment, tmp_path / "next")
    assert found is not None
    assert (found.files, len(set(tmp_path.glob("*.safetensors")) - before)) == (1, 1)
    assert not before & set(tmp_path.glob("*.safetensors"))
    assert os.stat(tmp_path / "next").st_mode & 0o077 == 0
    new = (tmp_path / "next").read_text()
    assert rotate_sample_key(replace(deployment, sample_key=bytes.fromhex(new)), tmp_path / "next") is None


def test_a_file_that_the_storage_does_not_let_go_does_not_undo_a_rotation(
    deployment: Deployment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def hold(self: LocalFolder, name: str) -> int:
        raise StorageError("is under a hold")

    monkeypatch.setattr(LocalFolder, "delete", hold)
    assert rotate_sample_key(deployment, tmp_path / "next", adopt=tmp_path / "own") is not None
    assert (tmp_path / "own").read_text() != SAMPLE_KEY
    assert len(list(tmp_path.glob("*.safetensors"))) == 2  # the next purge deletes the old one


def test_the_new_key_is_written_beside_an_earlier_one_and_leaves_it(deployment: Deployment, tmp_path: Path) -> None:
    """A temporary file of a fixed name, such as `sample-key.new`, could be the operator's own."""
    (tmp_path / "sample-key.new").write_text("an earlier key")
    assert rotate_sample_key(deployment, tmp_path / "sample-key.next") is not None
    assert (tmp_path / "sample-key.new").read_text() == "an earlier key"


def test_a_key_file_that_cannot_be_written_is_refused(deployment: Deployment, tmp_path: Path) -> None:
    with pytest.raises(KeyCommandRefused, match="none"):
        rotate_sample_key(deployment, tmp_path / "none" / "next")


@pytest.mark.parametrize("text", ["", "ab" * 31, "cd" * 64, SAMPLE_KEY + "cd" * 32 + "ef" * 32])
def test_a_file_that_does_not_continue_the_key_is_refused(
    deployment: Deployment, sessions: sessionmaker[Session], tmp_path: Path, text: str
) -> None:
    (tmp_path / "next").write_text(text)
    with pytest.raises(KeyCommandRefused, match="next"):
        rotate_sample_key(deployment, tmp_path / "next")
    with sessions.begin() as session:
        check_sample_key(session, KEY)


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
def signing_deployment(world: World, database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Deployment:
    """A storage with the weights of both versions, and a key."""
    for name in ("first.safetensors", "cdcd.safetensors"):
        (tmp_path / name).write_bytes(b"weights")
    monkeypatch.setenv("EXPUNGE_MODEL_SIGNING_KEY", str(write_key(tmp_path)))
    return Deployment(database_url=database_url, storage=tmp_path, sample_key=WORLD_KEY, workloads="tests")


def sign(signing_deployment: Deployment, model: str = "small") -> list[tuple[int, str]]:
    """Sign a model's versions; gives the number and the outcome of each."""
    return [(one.number, one.outcome) for one in sign_versions(signing_deployment, model=model, tenant="hospital")]


def test_each_version_is_signed_once_with_each_key(
    signing_deployment: Deployment, world: World, tmp_path: Path
) -> None:
    assert sign(signing_deployment) == [(1, "signed"), (2, "signed")]
    assert sign(signing_deployment) == [(1, HAD_ONE), (2, HAD_ONE)]
    write_key(tmp_path)  # another one
    assert sign(signing_deployment) == [(1, "signed"), (2, "signed")]
    with world.sessions() as session:
        found = session.scalars(text("SELECT signature FROM model_versions WHERE signature IS NOT NULL")).all()
    signer = read_model_key(tmp_path / "model-key.pem")
    assert [signer.has_signed(bundle) for bundle in found] == [True, True]


def test_a_version_that_knows_erased_people_gets_no_signature(signing_deployment: Deployment, world: World) -> None:
    with world.sessions.begin() as session:
        session.execute(text("UPDATE model_versions SET knows_erased = true WHERE number = 1"))
    assert sign(signing_deployment) == [(1, KNOWS_ERASED), (2, "signed")]
    assert world.count("model_versions", "signature IS NOT NULL") == 1


def test_weights_that_are_not_as_recorded_are_not_signed(
    signing_deployment: Deployment, world: World, tmp_path: Path
) -> None:
    (tmp_path / "cdcd.safetensors").write_bytes(b"other")
    with pytest.raises(SigningRefused, match="Version 2 was not signed"):
        sign(signing_deployment)
    assert world.count("model_versions", "signature IS NOT NULL") == 1
    (tmp_path / "cdcd.safetensors").unlink()
    with pytest.raises(SigningRefused, match="cannot be read"):
        sign(signing_deployment)


def test_without_a_key_or_a_model_the_command_says_what_is_missing(
    signing_deployment: Deployment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(SigningRefused, match="no model named"):
        sign(signing_deployment, "unknown")
    (tmp_path / "model-key.pem").chmod(0o644)
    with pytest.raises(SigningRefused, match="chmod 600"):
        sign(signing_deployment)
    monkeypatch.delenv("EXPUNGE_MODEL_SIGNING_KEY")
    with pytest.raises(SigningRefused, match="is not set"):
        sign(signing_deployment)


def test_the_command_lists_what_it_has_signed(signing_deployment: Deployment, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", signing_deployment.database_url)
    monkeypatch.setenv("EXPUNGE_STORAGE", str(signing_deployment.storage))
    monkeypatch.setenv("EXPUNGE_SAMPLE_KEY", WORLD_KEY.hex())
    run = CliRunner().invoke(app, ["sign", "small", "--tenant", "hospital"])
    assert run.exit_code == 0, run.output
    assert run.output.splitlines() == [f"version {number}  {DIGEST}  signed" for number in (1, 2)]
