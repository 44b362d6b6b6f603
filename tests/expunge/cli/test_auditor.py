"""The auditor's check of the log, against the real service."""

import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

import httpx
import pytest
from sqlalchemy import text
from sqlalchemy.orm import Session, sessionmaker
from typer.testing import CliRunner

from expunge.cli import console
from expunge.cli.auditor import check_log, fetch_leaves, prove_growth
from expunge.cli.main import app
from expunge.errors import LogNotProven
from ledger.transparency.log import LogKind, begin_new_origin, newest_checkpoint, prove_entry, sign_checkpoint
from service.app import create_app
from service.settings import Settings
from tests.service.conftest import NOWHERE, SAMPLE_KEY, served, set_up
from tests.verifier.conftest import make_signer
from verifier.errors import BadSignature, Malformed, Mismatch, NotProven, Revoked
from verifier.keys import TrustedKey, pem
from verifier.log import TreeHead, read_log_checkpoint
from worker.signing import Signer

SIGNER = make_signer()
TRUSTED = TrustedKey(key_id=SIGNER.key_id, public=SIGNER.private.public_key())


@pytest.fixture
def address(database_url: str) -> Iterator[str]:
    with ExitStack() as stack:
        settings = Settings(database_url=database_url, redis_url=NOWHERE, sample_key=SAMPLE_KEY)
        yield stack.enter_context(served(create_app(settings)))


def grow(sessions: sessionmaker[Session], tenant: str, *, signer: Signer = SIGNER) -> str:
    """Register a site, which is a promotion, and sign the log; gives a key."""
    with sessions.begin() as session:
        site = set_up(session, tenant)
    with sessions.begin() as session:
        sign_checkpoint(session, signer.checkpoint)
    return site.auditor


@contextmanager
def not_proven(cause: type[NotProven]) -> Iterator[None]:
    with pytest.raises(LogNotProven) as refusal:
        yield
    assert type(refusal.value.__cause__) is cause


def test_growth_is_accepted_and_a_changed_past_is_not(
    address: str, sessions: sessionmaker[Session], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "key.pem").write_text(pem(SIGNER.private.public_key()))
    state = tmp_path / "checkpoint.txt"
    key = grow(sessions, "clinic")
    given = {"url": address, "key": key, "signed_by": tmp_path / "key.pem", "state": state, "whole": True}
    check_log(**given)
    assert state.exists()
    capsys.readouterr()
    grow(sessions, "bank")
    grow(sessions, "school")
    check_log(**given)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].endswith(": 3 entries.")
    assert lines[1:3] == ["The first 1 are those of checkpoint.txt.", "All 3 entries give its root."]
    kept = state.read_bytes()
    grow(sessions, "harbour")
    with sessions.begin() as session:  # what only the database's owner can do
        session.execute(text("SET LOCAL session_replication_role = replica"))
        session.execute(text("UPDATE log_nodes SET hash = '\\x00' WHERE level = 1 AND place = 0"))
    with not_proven(Mismatch):
        check_log(**given)
    assert state.read_bytes() == kept


def test_a_key_is_needed_only_to_read_the_entries(
    address: str, sessions: sessionmaker[Session], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "key.pem").write_text(pem(SIGNER.private.public_key()))
    state = tmp_path / "checkpoint.txt"
    key = grow(sessions, "clinic")
    given = ["check-log", "--url", address, "--signed-by", str(tmp_path / "key.pem"), "--state", str(state)]
    for tenant in ("bank", "school"):  # the second asks for a consistency proof
        assert CliRunner().invoke(app, given).exit_code == 0
        grow(sessions, tenant)
    monkeypatch.delenv("EXPUNGE_API_KEY", raising=False)
    monkeypatch.setattr(console, "has_terminal", lambda: False)
    refused = CliRunner().invoke(app, [*given, "--whole"])
    assert refused.exit_code == 2
    assert "EXPUNGE_API_KEY" in refused.output
    assert CliRunner().invoke(app, [*given, "--whole", "--key", key]).exit_code == 0


def test_what_another_was_shown_is_of_the_same_log_or_refused(
    address: str, sessions: sessionmaker[Session], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "key.pem").write_text(pem(SIGNER.private.public_key()))
    key = grow(sessions, "clinic")
    given = {"url": address, "key": key, "signed_by": tmp_path / "key.pem", "state": tmp_path / "mine.txt"}
    other, entry, forked = (tmp_path / name for name in ("other.txt", "entry.json", "forked.txt"))
    with sessions() as session:
        other.write_text(newest_checkpoint(session).note)
        tenant_id, subject_id = session.execute(text("SELECT tenant_id, subject_id FROM log_openings")).one()
        promotion = {"tenant_id": tenant_id, "subject_id": subject_id, "sample_key": bytes(32)}
        proof = prove_entry(session, LogKind.PROMOTION, **promotion)
    entry.write_text(json.dumps(proof.to_json()))
    grow(sessions, "bank")
    check_log(**given, against=[other, entry])
    printed = capsys.readouterr().out
    assert "The first 1 are those of other.txt." in printed
    assert "Entry 0 is the promotion of entry.json, dated 20" in printed
    true = read_log_checkpoint(other.read_bytes(), keys=[TRUSTED])
    forked.write_text(SIGNER.checkpoint(replace(true, root=bytes(32))))
    with not_proven(Mismatch):
        check_log(**given, against=[forked])
    forked.write_text(SIGNER.checkpoint(replace(true, size=9)))
    with not_proven(Mismatch):
        check_log(**given, against=[forked])


def test_the_checkpoint_in_the_state_file_stays_valid_after_its_keys_revocation_and_no_others_do(
    address: str, sessions: sessionmaker[Session], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    key, fresh = grow(sessions, "clinic"), make_signer()
    keys, state = tmp_path / "keys.json", tmp_path / "checkpoint.txt"
    listed = [
        {"key_id": one.key_id, "public_key": pem(one.private.public_key()), "revoked_at": None}
        for one in (SIGNER, fresh)
    ]
    keys.write_text(json.dumps({"items": listed}))
    given = {"url": address, "key": key, "signed_by": keys, "state": state}
    check_log(**given)
    (tmp_path / "other.txt").write_bytes(state.read_bytes())
    listed[0]["revoked_at"] = "2026-01-01T00:00:00Z"
    keys.write_text(json.dumps({"items": listed}))
    with not_proven(Revoked):  # the newest is signed with it still
        check_log(**given)
    grow(sessions, "bank", signer=fresh)
    with not_proven(Revoked):
        check_log(**given, against=[tmp_path / "other.txt"])
    capsys.readouterr()
    check_log(**given)
    assert "The first 1 are those of checkpoint.txt." in capsys.readouterr().out


@pytest.mark.parametrize(
    "answer", [{"leaves": 1, "path": 1}, {"leaves": ["é"], "path": ["xy"]}, {"leaves": [1], "path": [1]}]
)
def test_an_answer_that_is_no_part_of_a_log_proves_nothing(answer: dict[str, object]) -> None:
    http = httpx.Client(
        base_url="http://service", transport=httpx.MockTransport(lambda request: httpx.Response(200, json=answer))
    )
    older = TreeHead(origin="x", size=1, root=bytes(32))
    with pytest.raises(Malformed, match="cannot be read"):
        fetch_leaves(http, 2)
    with pytest.raises(Malformed, match="cannot be read"):
        prove_growth(http, older, replace(older, size=2))


def test_a_checkpoint_of_another_key_is_not_accepted(
    address: str, sessions: sessionmaker[Session], tmp_path: Path
) -> None:
    (tmp_path / "key.pem").write_text(pem(make_signer().private.public_key()))
    key = grow(sessions, "clinic")
    with not_proven(BadSignature):
        check_log(url=address, key=key, signed_by=tmp_path / "key.pem", state=tmp_path / "checkpoint.txt", whole=False)
    assert not (tmp_path / "checkpoint.txt").exists()


def restore(sessions: sessionmaker[Session]) -> None:
    """Record a restore, and sign."""
    with sessions.begin() as session:
        begin_new_origin(session)
    with sessions.begin() as session:
        sign_checkpoint(session, SIGNER.checkpoint)


def test_after_an_announced_restore_an_auditor_continues_and_keeps_the_evidence(
    address: str, sessions: sessionmaker[Session], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "key.pem").write_text(pem(SIGNER.private.public_key()))
    state = tmp_path / "checkpoint.txt"
    key = grow(sessions, "clinic")
    given = {"url": address, "key": key, "signed_by": tmp_path / "key.pem", "state": state}
    check_log(**given)
    kept = state.read_bytes()
    restore(sessions)
    with not_proven(Mismatch):
        check_log(**given)
    assert state.read_bytes() == kept
    capsys.readouterr()
    check_log(**given, after_restore=True)
    assert "The first 1 are those of checkpoint.txt, kept as checkpoint.txt.1." in capsys.readouterr().out
    assert (tmp_path / "checkpoint.txt.1").read_bytes() == kept
    grow(sessions, "bank")
    check_log(**given)


def test_after_a_restore_an_auditor_sees_what_was_lost_and_an_unrecorded_one_is_refused(
    address: str, sessions: sessionmaker[Session], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "key.pem").write_text(pem(SIGNER.private.public_key()))
    state = tmp_path / "checkpoint.txt"
    key = grow(sessions, "clinic")
    with sessions() as session:
        true = read_log_checkpoint(newest_checkpoint(session).note.encode(), keys=[TRUSTED])
    state.write_text(SIGNER.checkpoint(replace(true, size=4)))  # three entries more than the backup has
    restore(sessions)
    given = {"url": address, "key": key, "signed_by": tmp_path / "key.pem", "state": state, "after_restore": True}
    check_log(**given)
    assert "3 entries that you were shown are lost" in capsys.readouterr().out
    state.write_text(SIGNER.checkpoint(replace(true, origin="expunge.dev/log/other")))
    with not_proven(Mismatch):
        check_log(**given)
