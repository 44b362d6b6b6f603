import json
import stat
from pathlib import Path

import pytest
from sqlalchemy.orm import Session, sessionmaker

from expunge.operator.keys import create_signing_key, revoke_signing_key
from ledger.transparency.log import list_leaves, newest_checkpoint
from tests.worker.conftest import Bench
from verifier.keys import read_keys
from verifier.log import read_log_checkpoint
from worker.failures import NoSigningKey
from worker.signing import discard_key, load_signer, make_key, sign_log


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
