"""The auditor's watch over the log, against the real service."""

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from sqlalchemy import text
from sqlalchemy.orm import Session, sessionmaker

from expunge.errors import LogNotProven
from expunge.log_command import check_log
from ledger.log_reading import keep_checkpoint
from service.app import create_app
from service.settings import Settings
from tests.service.conftest import NOWHERE, SAMPLE_KEY, served, set_up
from tests.verifier.conftest import make_signer
from verifier.keys import pem

SIGNER = make_signer()


@pytest.fixture
def address(database_url: str) -> Iterator[str]:
    with ExitStack() as stack:
        settings = Settings(database_url=database_url, redis_url=NOWHERE, sample_key=SAMPLE_KEY)
        yield stack.enter_context(served(create_app(settings)))


def grow(sessions: sessionmaker[Session], tenant: str) -> str:
    """Register a site, which is a promotion, and sign the log; gives a key."""
    with sessions.begin() as session:
        site = set_up(session, tenant)
    with sessions.begin() as session:
        keep_checkpoint(session, SIGNER.checkpoint)
    return site.auditor


def test_growth_is_accepted_and_a_changed_past_is_not(
    address: str, sessions: sessionmaker[Session], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "key.pem").write_text(pem(SIGNER.private.public_key()))
    state = tmp_path / "checkpoint.txt"
    key = grow(sessions, "clinic")
    given = {"url": address, "key": key, "signed_by": tmp_path / "key.pem", "state": state, "whole": True}
    check_log(**given)
    assert "nothing to compare with yet" in capsys.readouterr().out
    grow(sessions, "bank")
    grow(sessions, "school")
    check_log(**given)
    assert "3 entries, of which the first 1 are those of the last time" in capsys.readouterr().out
    kept = state.read_bytes()
    grow(sessions, "harbour")
    with sessions.begin() as session:  # what only the database's owner can do
        session.execute(text("SET LOCAL session_replication_role = replica"))
        session.execute(text("UPDATE log_nodes SET hash = '\\x00' WHERE level = 1 AND place = 0"))
    with pytest.raises(LogNotProven, match="not what they were"):
        check_log(**given)
    assert state.read_bytes() == kept


def test_a_checkpoint_of_another_key_is_not_accepted(
    address: str, sessions: sessionmaker[Session], tmp_path: Path
) -> None:
    (tmp_path / "key.pem").write_text(pem(make_signer().private.public_key()))
    key = grow(sessions, "clinic")
    with pytest.raises(LogNotProven, match="has signed this note"):
        check_log(url=address, key=key, signed_by=tmp_path / "key.pem", state=tmp_path / "checkpoint.txt", whole=False)
    assert not (tmp_path / "checkpoint.txt").exists()
