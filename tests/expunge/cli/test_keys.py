"""API keys and signing keys on the command line."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from sqlalchemy.orm import Session, sessionmaker
from typer.testing import CliRunner, Result

from expunge.cli import console
from expunge.cli.main import app
from expunge.errors import KeyCommandRefused, StackError
from expunge.operator.deployment import find_deployment
from expunge.operator.keys import create_signing_key, revoke_signing_key
from expunge.stack.folder import StackSettings, lock_folder, sample_key, write_secret, write_stack_settings
from ledger.errors import KeyRefused
from ledger.registry.access import Scope, authenticate
from ledger.sample_key import check_sample_key

Keys = Callable[..., Result]


@pytest.fixture
def run(database_url: str, monkeypatch: pytest.MonkeyPatch) -> Keys:
    """Runs a command on a deployment."""
    monkeypatch.setenv("DATABASE_URL", database_url)
    monkeypatch.setenv("EXPUNGE_STORAGE", "/nowhere")
    monkeypatch.setenv("EXPUNGE_SAMPLE_KEY", "00" * 32)
    monkeypatch.delenv("EXPUNGE_SIGNING_KEYS", raising=False)
    monkeypatch.setattr(console.out, "_width", 200)  # It may have been made under another test's COLUMNS.
    return lambda *arguments: CliRunner().invoke(app, arguments)


@pytest.fixture
def keys(run: Keys) -> Keys:
    return lambda *arguments: run("keys", *arguments)


def prefix_of(secret: str) -> str:
    return secret.split("_")[1]


def test_a_new_key_may_do_everything_but_administer(keys: Keys, sessions: sessionmaker[Session]) -> None:
    secret = keys("create", "portal").output.strip()
    with sessions() as session:
        assert authenticate(session, secret).scopes == set(Scope) - {Scope.ADMIN, Scope.WEIGHTS_READ}


def test_a_key_has_the_scopes_that_it_is_given(keys: Keys, sessions: sessionmaker[Session]) -> None:
    secret = keys("create", "auditor", "--scope", "reports:read", "--scope", "requests:read").output.strip()
    with sessions() as session:
        assert authenticate(session, secret).scopes == {Scope.REPORTS_READ, Scope.REQUESTS_READ}


def test_an_unknown_scope_is_refused_with_the_known_ones(keys: Keys) -> None:
    with pytest.raises(KeyCommandRefused, match=r"requests:write.*got requests:delete"):
        raise keys("create", "portal", "--scope", "requests:delete").exception or AssertionError


def test_a_name_that_is_not_in_utf_8_is_refused(keys: Keys) -> None:
    for arguments in (["\udce9"], ["portal", "--tenant", "\udce9"]):
        with pytest.raises(StackError, match="not in UTF-8"):
            raise keys("create", *arguments).exception or AssertionError


def test_the_list_shows_the_keys_and_no_secret(keys: Keys) -> None:
    secret = keys("create", "portal [x]").output.strip()
    shown = keys("list").output
    assert re.search(rf"{prefix_of(secret)}.*portal \[x\].*requests:write.*good", shown)
    assert secret.split("_", 2)[2] not in shown
    assert prefix_of(secret) not in keys("list", "--tenant", "other").output


def test_a_signing_key_is_not_made_where_no_worker_reads_it(run: Keys) -> None:
    with pytest.raises(StackError, match="EXPUNGE_SIGNING_KEYS is not set"):
        raise run("signing-keys", "new").exception or AssertionError


def test_a_revoked_key_is_refused(keys: Keys, sessions: sessionmaker[Session]) -> None:
    secret = keys("create", "portal").output.strip()
    for _ in range(2):
        assert keys("revoke", prefix_of(secret)).exit_code == 0
    assert "revoked" in keys("list").output
    with sessions() as session, pytest.raises(KeyRefused):
        authenticate(session, secret)


def test_a_key_of_another_tenant_is_not_revoked(keys: Keys) -> None:
    secret = keys("create", "portal").output.strip()
    assert isinstance(keys("revoke", prefix_of(secret), "--tenant", "other").exception, KeyCommandRefused)
    assert "revoked" not in keys("list").output


def test_the_list_of_signing_keys_shows_whole_ids(run: Keys, database_url: str, tmp_path: Path) -> None:
    key = create_signing_key(database_url, tmp_path)
    assert run("signing-keys", "list").output.split() == [key.key_id, f"{key.created_at:%Y-%m-%d}", "good"]


def test_the_newest_valid_signing_key_is_printed_as_a_pem_file(run: Keys, database_url: str, tmp_path: Path) -> None:
    valid, revoked = (create_signing_key(database_url, tmp_path) for _ in range(2))
    revoke_signing_key(database_url, tmp_path, prefix=revoked.key_id, reason="stolen")
    assert run("signing-keys", "list", "--pem").output == valid.public_key


def test_a_stacks_key_is_not_rotated_once_more_before_the_stack_has_it(
    database_url: str, sessions: sessionmaker[Session], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("DATABASE_URL", "EXPUNGE_SAMPLE_KEY", "EXPUNGE_STORAGE"):
        monkeypatch.delenv(name, raising=False)
    with lock_folder(tmp_path / "data") as folder:
        sample_key(folder)

        def start() -> None:
            storage = str(folder.weights)
            settings = StackSettings(
                api_url="", database_url=database_url, redis_url="", storage=storage, workloads="tests"
            )
            write_stack_settings(folder, settings)

        def rotate() -> str:
            done = CliRunner().invoke(app, ["rotate-sample-key", "--data-dir", str(folder.root)])
            assert done.exit_code == 0, done.output
            return folder.sample_key.read_text()

        start()
        with sessions.begin() as session:
            check_sample_key(session, find_deployment(folder.root).sample_key)
        first = folder.sample_key.read_text()
        second = rotate()
        assert second.startswith(first)
        assert len(second) > len(first)
        assert rotate() == second
        start()
        third = rotate()
        assert third.startswith(second)
        assert len(third) > len(second)
        with sessions.begin() as session:
            check_sample_key(session, bytes.fromhex(third))
        # Of a rotation that was refused while a worker ran a job, before the stack was started anew.
        write_secret(folder.sample_key.with_suffix(".next"), third + "ab" * 32)
        start()
        fourth = rotate()
        assert fourth == third + "ab" * 32
        assert rotate() == fourth
