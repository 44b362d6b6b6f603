from pathlib import Path

import pytest

from expunge.cli.maintenance import list_keys
from expunge.errors import KeyCommandRefused
from expunge.operator.keys import first_signing_key, new_signing_key, signing_keys, stop_signing_key


def private_keys(folder: Path) -> set[str]:
    return {path.stem for path in folder.glob("*.pem")}


def test_rotation_makes_a_newer_key_and_leaves_the_older_one_good(database_url: str, tmp_path: Path) -> None:
    first, second = (new_signing_key(database_url, tmp_path) for _ in range(2))
    assert [key.key_id for key in signing_keys(database_url)] == [second.key_id, first.key_id]
    assert private_keys(tmp_path) == {first.key_id, second.key_id}


def test_revoking_takes_the_private_half_away(database_url: str, tmp_path: Path) -> None:
    key = new_signing_key(database_url, tmp_path)
    stop_signing_key(database_url, tmp_path, prefix=key.key_id[:8], reason="stolen")
    assert private_keys(tmp_path) == set()
    assert [found.revocation_reason for found in signing_keys(database_url)] == ["stolen"]


def test_no_key_or_several_are_not_revoked(database_url: str, tmp_path: Path) -> None:
    new_signing_key(database_url, tmp_path)
    new_signing_key(database_url, tmp_path)
    for prefix in ("", "xyz"):
        with pytest.raises(KeyCommandRefused, match="Nothing was revoked"):
            stop_signing_key(database_url, tmp_path, prefix=prefix, reason="?")


def test_the_first_start_makes_a_key_and_the_next_one_finds_it(database_url: str, tmp_path: Path) -> None:
    first_signing_key(database_url, tmp_path)
    first_signing_key(database_url, tmp_path)
    assert len(signing_keys(database_url)) == 1


def test_a_key_that_could_not_be_registered_is_not_left_lying(tmp_path: Path) -> None:
    with pytest.raises(Exception, match=r"refused|connect"):
        new_signing_key("postgresql://127.0.0.1:1/nowhere", tmp_path)
    assert private_keys(tmp_path) == set()


def test_the_list_shows_whole_ids_which_are_to_be_compared(
    database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    key = new_signing_key(database_url, tmp_path / "keys")
    found = {"DATABASE_URL": database_url, "EXPUNGE_STORAGE": str(tmp_path), "EXPUNGE_SAMPLE_KEY": "00" * 32}
    for name, value in found.items():
        monkeypatch.setenv(name, value)
    list_keys()
    assert f"{key.key_id} {key.created_at:%Y-%m-%d} good" in " ".join(capsys.readouterr().out.split())
