import json
from pathlib import Path

from sqlalchemy.orm import Session, sessionmaker

from expunge.operator.keys import create_signing_key, revoke_signing_key
from ledger.transparency.log import list_leaves, newest_checkpoint
from tests.worker.conftest import Bench
from verifier.keys import read_keys
from verifier.log import read_log_checkpoint
from worker.signing import sign_log


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
    told = [(leaf["kind"], leaf["key_id"], leaf["revoked"]) for leaf in map(json.loads, leaves)]
    assert told == [("key", stolen.key_id, False), ("key", stolen.key_id, True), ("key", fresh.key_id, False)]
