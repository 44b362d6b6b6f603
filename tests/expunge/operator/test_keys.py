from pathlib import Path

import pytest
from sqlalchemy.exc import OperationalError

from expunge.errors import KeyCommandRefused
from expunge.operator.keys import create_signing_key, ensure_signing_key, list_signing_keys, revoke_signing_key


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


def test_a_signing_key_is_created_once(database_url: str, tmp_path: Path) -> None:
    ensure_signing_key(database_url, tmp_path)
    ensure_signing_key(database_url, tmp_path)
    assert len(list_signing_keys(database_url)) == 1


def test_a_key_that_could_not_be_registered_is_deleted(tmp_path: Path) -> None:
    with pytest.raises(OperationalError):
        create_signing_key("postgresql://127.0.0.1:1/nowhere", tmp_path)
    assert private_keys(tmp_path) == set()
