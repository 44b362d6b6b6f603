"""API keys as the operator handles them on the command line."""

import re
from collections.abc import Callable

import pytest
from sqlalchemy.orm import Session, sessionmaker
from typer.testing import CliRunner, Result

from expunge.cli import console
from expunge.cli.main import app
from expunge.errors import KeyCommandRefused
from ledger.errors import KeyRefused
from ledger.registry.access import Scope, authenticate

Keys = Callable[..., Result]


@pytest.fixture
def keys(database_url: str, monkeypatch: pytest.MonkeyPatch) -> Keys:
    monkeypatch.setenv("DATABASE_URL", database_url)
    monkeypatch.setenv("EXPUNGE_STORAGE", "/nowhere")
    monkeypatch.setenv("EXPUNGE_SAMPLE_KEY", "00" * 32)
    monkeypatch.setattr(console.out, "_width", 200)  # It may have been made under another test's COLUMNS.
    return lambda *arguments: CliRunner().invoke(app, ["keys", *arguments])


def prefix_of(secret: str) -> str:
    return secret.split("_")[1]


def test_a_new_key_may_do_everything_but_administer(keys: Keys, sessions: sessionmaker[Session]) -> None:
    secret = keys("create", "portal").output.strip()
    with sessions() as session:
        assert authenticate(session, secret).scopes == set(Scope) - {Scope.ADMIN}


def test_a_key_has_the_scopes_that_it_is_given(keys: Keys, sessions: sessionmaker[Session]) -> None:
    secret = keys("create", "auditor", "--scope", "reports:read", "--scope", "requests:read").output.strip()
    with sessions() as session:
        assert authenticate(session, secret).scopes == {Scope.REPORTS_READ, Scope.REQUESTS_READ}


def test_a_scope_that_does_not_exist_is_told_with_those_that_do(keys: Keys) -> None:
    with pytest.raises(KeyCommandRefused, match=r"requests:write.*got requests:delete"):
        raise keys("create", "portal", "--scope", "requests:delete").exception or AssertionError


def test_a_list_shows_what_keys_there_are_and_no_secret(keys: Keys) -> None:
    secret = keys("create", "portal [x]").output.strip()
    shown = keys("list").output
    assert re.search(rf"{prefix_of(secret)}.*portal \[x\].*requests:write.*good", shown)
    assert secret.split("_", 2)[2] not in shown
    assert prefix_of(secret) not in keys("list", "--tenant", "other").output


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
