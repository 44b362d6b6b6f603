import json
import stat
from pathlib import Path

import pytest

from expunge.errors import FolderInUse, StackError
from expunge.stack.folder import StackSettings, lock_folder, read_stack_settings, sample_key, write_stack_settings

SETTINGS = StackSettings(
    api_url="http://127.0.0.1:8000",
    database_url="postgresql://x",
    redis_url="redis://x",
    storage="/x",
    workloads="examples",
)


def test_a_folder_that_is_in_use_is_refused_with_the_holder(tmp_path: Path) -> None:
    with (
        lock_folder(tmp_path / "data"),
        pytest.raises(FolderInUse, match=r"Another stack \(process \d+\)"),
        lock_folder(tmp_path / "data"),
    ):
        pass


def test_a_folder_is_free_again_afterwards(tmp_path: Path) -> None:
    for _ in range(2):
        with lock_folder(tmp_path / "data") as folder:
            assert folder.weights.is_dir()


def test_a_folder_that_cannot_be_made_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StackError, match="cannot be used: Not a directory"), lock_folder(tmp_path / "file" / "data"):
        pass


def test_the_sample_key_is_made_once_and_only_its_owner_reads_it(tmp_path: Path) -> None:
    with lock_folder(tmp_path) as folder:
        key = sample_key(folder)
        assert len(bytes.fromhex(key)) == 32
        assert stat.S_IMODE(folder.sample_key.stat().st_mode) == 0o600
    with lock_folder(tmp_path) as folder:
        assert sample_key(folder) == key


def test_a_running_stack_is_found_by_its_folder_and_forgotten_when_it_ends(tmp_path: Path) -> None:
    with lock_folder(tmp_path) as folder:
        write_stack_settings(folder, SETTINGS)
        assert read_stack_settings(tmp_path) == SETTINGS
        assert stat.S_IMODE(folder.settings.stat().st_mode) == 0o600
        assert json.loads(folder.settings.read_text())["api_url"] == SETTINGS.api_url
    assert read_stack_settings(tmp_path) is None
