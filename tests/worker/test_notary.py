from pathlib import Path

from sqlalchemy.orm import Session, sessionmaker

from expunge.signing import new_signing_key, stop_signing_key
from ledger.log_reading import newest_checkpoint
from tests.worker.conftest import Bench
from worker.notary import sign_log


def test_a_sweep_signs_the_log_where_it_has_grown_and_a_key_is_there(
    bench: Bench, database_url: str, sessions: sessionmaker[Session], tmp_path: Path
) -> None:
    keys = tmp_path / "keys"
    signing = bench.settings.model_copy(update={"signing_keys": keys})
    assert not sign_log(sessions, bench.settings)  # nothing is to be signed
    assert not sign_log(sessions, signing)  # there is no key
    key = new_signing_key(database_url, keys)
    assert sign_log(sessions, signing)
    assert not sign_log(sessions, signing)  # nothing is new
    with sessions() as session:
        assert newest_checkpoint(session).size == 1  # the registered model is served
    stop_signing_key(database_url, keys, prefix=key.key_id, reason="stolen")
    assert not sign_log(sessions, signing)
