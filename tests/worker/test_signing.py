import fcntl
import json
import stat
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from sqlalchemy import delete, func, select, text, update
from sqlalchemy.orm import Session, sessionmaker

from expunge.operator.doctor import check_log
from expunge.operator.keys import create_signing_key, revoke_signing_key
from expunge.operator.retention import begin_restored_log
from ledger.tables import LogCheckpoint, LogHead, LogLeaf, LogNode
from ledger.transparency.log import list_leaves, log_key, newest_checkpoint
from ledger.transparency.merkle import nodes_of
from ledger.transparency.signing_keys import list_signing_keys
from tests.worker.conftest import Bench
from verifier.keys import TrustedKey, read_keys
from verifier.log import TreeHead, read_log_checkpoint
from worker import signing
from worker.failures import NoSigningKey
from worker.settings import Settings
from worker.signing import (
    LAST_SIGNED,
    discard_key,
    load_signer,
    make_key,
    read_last_signed,
    remember_signed,
    sign_log,
)


def test_a_key_that_was_made_signs_and_only_its_owner_can_read_it(tmp_path: Path) -> None:
    folder = tmp_path / "keys"
    made = make_key(folder)
    (path,) = folder.iterdir()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert load_signer(folder, [made.key_id]).key_id == made.key_id
    assert "PRIVATE" not in made.public_key


def test_the_first_usable_key_that_is_there_signs(tmp_path: Path) -> None:
    old, new = make_key(tmp_path), make_key(tmp_path)
    assert load_signer(tmp_path, [new.key_id, old.key_id]).key_id == new.key_id
    assert discard_key(tmp_path, new.key_id)
    assert not discard_key(tmp_path, new.key_id)
    assert load_signer(tmp_path, [new.key_id, old.key_id]).key_id == old.key_id


def test_a_key_that_is_not_registered_does_not_sign(tmp_path: Path) -> None:
    make_key(tmp_path)
    for usable in ([], ["0" * 64]):
        with pytest.raises(NoSigningKey):
            load_signer(tmp_path, usable)


def test_a_key_that_others_can_read_does_not_sign(tmp_path: Path) -> None:
    made = make_key(tmp_path)
    (tmp_path / f"{made.key_id}.pem").chmod(0o640)
    with pytest.raises(NoSigningKey):
        load_signer(tmp_path, [made.key_id])


def test_a_file_that_holds_something_else_does_not_sign(tmp_path: Path) -> None:
    made, other = make_key(tmp_path), make_key(tmp_path)
    path = tmp_path / f"{made.key_id}.pem"
    path.write_bytes((tmp_path / f"{other.key_id}.pem").read_bytes())
    with pytest.raises(NoSigningKey):
        load_signer(tmp_path, [made.key_id])
    path.write_bytes(b"-----BEGIN PRIVATE KEY-----\n")
    with pytest.raises(NoSigningKey):
        load_signer(tmp_path, [made.key_id])


def test_a_folder_that_cannot_be_read_is_an_error_of_the_operators(tmp_path: Path) -> None:
    with pytest.raises(NoSigningKey):
        load_signer(tmp_path / ("far" * 100), ["0" * 64])


def test_a_signer_does_not_print_its_key(tmp_path: Path) -> None:
    made = make_key(tmp_path)
    assert "private" not in repr(load_signer(tmp_path, [made.key_id]))


def test_a_sweep_signs_the_log_where_it_has_grown_and_a_key_is_there(
    bench: Bench, database_url: str, sessions: sessionmaker[Session], tmp_path: Path
) -> None:
    keys = tmp_path / "keys"
    signing = bench.settings.model_copy(update={"signing_keys": keys})
    assert not sign_log(sessions, bench.settings)  # nothing is to be signed
    assert not sign_log(sessions, signing)  # there is no key
    key = create_signing_key(database_url, keys)
    assert sign_log(sessions, signing)
    assert not sign_log(sessions, signing)  # nothing is new
    with sessions() as session:
        assert newest_checkpoint(session).size == 2  # the registered model is served, and the key is known
    revoke_signing_key(database_url, keys, prefix=key.key_id, reason="stolen")
    assert not sign_log(sessions, signing)


def test_after_a_rotation_the_log_is_signed_anew_though_nothing_else_has_happened(
    bench: Bench, database_url: str, sessions: sessionmaker[Session], tmp_path: Path
) -> None:
    keys = tmp_path / "keys"
    signing = bench.settings.model_copy(update={"signing_keys": keys})
    stolen = create_signing_key(database_url, keys)
    assert sign_log(sessions, signing)
    revoke_signing_key(database_url, keys, prefix=stolen.key_id, reason="stolen")
    fresh = create_signing_key(database_url, keys)
    assert sign_log(sessions, signing)
    with sessions() as session:
        note, leaves = newest_checkpoint(session).note, list_leaves(session, start=1, limit=10)
    read_log_checkpoint(note.encode(), keys=read_keys(fresh.public_key.encode()))
    keys_in_log = [(leaf["kind"], leaf["key_id"], leaf["revoked"]) for leaf in map(json.loads, leaves)]
    assert keys_in_log == [("key", stolen.key_id, False), ("key", stolen.key_id, True), ("key", fresh.key_id, False)]


@dataclass(frozen=True)
class SignedLog:
    """A log that is signed by a worker, and a backup of its database from before its last entries."""

    sessions: sessionmaker[Session]
    settings: Settings

    @property
    def keys(self) -> Path:
        assert self.settings.signing_keys is not None
        return self.settings.signing_keys

    def grow(self) -> None:
        with self.sessions.begin() as session:
            log_key(session, key_id="ab" * 32, revoked=False)

    def sign(self) -> bool:
        return sign_log(self.sessions, self.settings)

    def head(self) -> TreeHead:
        with self.sessions() as session:
            return read_log_checkpoint(newest_checkpoint(session).note.encode(), keys=self.public)

    @property
    def public(self) -> list[TrustedKey]:
        with self.sessions() as session:
            return [key for row in list_signing_keys(session) for key in read_keys(row.public_key.encode())]

    def lose(self, entries: int) -> None:
        """Make the database what a restored backup is: the last entries were never there. Only the database's owner can do this."""
        with self.sessions.begin() as session:
            session.execute(text("SET LOCAL session_replication_role = replica"))
            size = session.scalars(select(LogHead.size)).one() - entries
            peaks = [
                session.scalars(
                    select(LogNode.hash).where(LogNode.level == node.level, LogNode.place == node.place)
                ).one()
                for node in nodes_of((0, size))
            ]
            session.execute(update(LogHead).values(size=size, peaks=peaks))
            session.execute(delete(LogLeaf).where(LogLeaf.index >= size))
            session.execute(delete(LogNode).where((LogNode.place + 1) * func.power(2, LogNode.level) > size))
            session.execute(delete(LogCheckpoint).where(LogCheckpoint.size > size))


@pytest.fixture
def signed_log(bench: Bench, database_url: str, sessions: sessionmaker[Session], tmp_path: Path) -> SignedLog:
    keys = tmp_path / "keys"
    create_signing_key(database_url, keys)
    log = SignedLog(sessions, bench.settings.model_copy(update={"signing_keys": keys}))
    for _ in range(3):
        log.grow()
        assert log.sign()
    return log


def test_what_was_signed_last_is_remembered_beside_the_key(signed_log: SignedLog) -> None:
    assert read_last_signed(signed_log.keys) == signed_log.head()
    assert stat.S_IMODE((signed_log.keys / LAST_SIGNED).stat().st_mode) == 0o600
    older = replace(signed_log.head(), size=1)
    remember_signed(signed_log.keys, older)  # a slow worker does not take it back
    assert read_last_signed(signed_log.keys) == signed_log.head()


def test_a_frozen_process_that_holds_the_lock_of_the_memory_keeps_nobody_waiting(
    signed_log: SignedLog, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(signing, "LOCK_SECONDS", 0.1)
    before = signed_log.head()
    with (signed_log.keys / f".{LAST_SIGNED}.lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        signed_log.grow()
        assert signed_log.sign()
        assert read_last_signed(signed_log.keys) == before
    assert "cannot be remembered" in caplog.text
    signed_log.grow()
    assert signed_log.sign()
    assert read_last_signed(signed_log.keys) == signed_log.head()


@pytest.mark.parametrize("grown_since", [0, 1, 5])
def test_a_log_that_shrank_or_forked_is_not_signed_until_the_restore_is_recorded(
    signed_log: SignedLog, database_url: str, grown_since: int
) -> None:
    shown = signed_log.head()
    signed_log.lose(2)
    for _ in range(grown_since):
        signed_log.grow()
    assert not signed_log.sign()
    with signed_log.sessions() as session:
        assert not check_log(session, signed_log.keys).ok

    restored = begin_restored_log(database_url)
    assert restored.before.origin == shown.origin != restored.after.origin
    assert signed_log.sign()
    assert (signed_log.head().origin, read_last_signed(signed_log.keys)) == (restored.after.origin, signed_log.head())
    signed_log.grow()
    assert signed_log.sign()
    with signed_log.sessions() as session:
        assert check_log(session, signed_log.keys).ok


def test_another_database_and_a_damaged_memory_are_not_signed_for(signed_log: SignedLog) -> None:
    last = signed_log.head()
    signed_log.grow()
    (signed_log.keys / LAST_SIGNED).unlink()
    remember_signed(signed_log.keys, replace(last, origin="expunge.dev/log/other"))
    assert not signed_log.sign()
    (signed_log.keys / LAST_SIGNED).write_text("{")
    assert not signed_log.sign()
    (signed_log.keys / LAST_SIGNED).unlink()
    assert signed_log.sign()
