import os
from pathlib import Path
from typing import Any

import pytest

from connectors.settings import open_storage
from connectors.storage import LocalFolder, delete_each, parse_location


@pytest.mark.parametrize(
    ("value", "read"),
    [
        ("/var/lib/expunge", Path("/var/lib/expunge")),
        ("weights", Path("weights")),
        ("file:///var/lib/expunge", Path("/var/lib/expunge")),
        ("s3://bucket/production/", "s3://bucket/production"),
        ("gs://bucket", "gs://bucket"),
        ("abfs://container@account.dfs.core.windows.net/x", "abfs://container@account.dfs.core.windows.net/x"),
    ],
)
def test_a_folder_is_a_path_and_a_bucket_a_url(value: str, read: object) -> None:
    assert parse_location(value) == read


@pytest.mark.parametrize(
    "value", ["s3://", "s3:///production", "ftp://host/x", "s3://key:secret@bucket", "s3://key@bucket", "s3://b?x=1"]
)
def test_another_value_is_refused_and_not_quoted(value: str) -> None:
    with pytest.raises(ValueError, match="must") as raised:
        parse_location(value)
    assert "secret" not in str(raised.value)


def test_a_folder_is_made_before_the_first_file_is_in_it(tmp_path: Path) -> None:
    for look in (LocalFolder.check, LocalFolder.free_bytes):
        folder = tmp_path / look.__name__ / "weights"
        assert look(LocalFolder(folder))
        assert folder.is_dir()


def test_a_folder_needs_no_client(tmp_path: Path) -> None:
    storage = open_storage(tmp_path)
    assert isinstance(storage, LocalFolder)
    name, sha256 = storage.put(b"content", "checkpoints/job/1")
    assert storage.fetch(name, sha256) == tmp_path / name
    assert [file.name for file in storage.list_files()] == [name]
    assert (storage.delete(name), storage.delete(name)) == (1, 0)
    source = tmp_path / "source"
    source.write_bytes(b"content")
    assert storage.put_file(source, sha256) == f"{sha256}.safetensors"
    assert (tmp_path / f"{sha256}.safetensors").read_bytes() == b"content"
    assert list(tmp_path.glob(".writing-*")) == []


def test_a_file_that_another_process_deletes_meanwhile_does_not_break_off_a_list(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage, stat = LocalFolder(tmp_path), Path.stat
    kept, _ = storage.put(b"kept", "checkpoints/job/2")
    gone, _ = storage.put(b"gone", "checkpoints/job/1")

    def overtaken(self: Path, **options: Any) -> os.stat_result:
        found = stat(self, **options)
        if self == tmp_path / gone:
            self.unlink()
        return found

    monkeypatch.setattr(Path, "stat", overtaken)
    assert kept in [file.name for file in storage.list_files("checkpoints")]
    assert [file.name for file in storage.list_files("checkpoints")] == [kept]
    assert list(storage.list_files("no-such-folder")) == []


def refuse(*arguments: object, **options: object) -> None:
    raise PermissionError(1, "Operation not permitted")


def test_a_folder_that_cannot_be_deleted_is_an_error_and_one_that_is_gone_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = LocalFolder(tmp_path)
    storage.put(b"content", "checkpoints/job/1")
    storage.delete_folder("checkpoints/other")
    with monkeypatch.context() as locked:
        locked.setattr(os, "unlink", refuse)
        with pytest.raises(PermissionError):
            storage.delete_folder("checkpoints/job")
    storage.delete_folder("checkpoints/job")
    assert list(storage.list_files()) == []


def test_a_file_that_the_system_does_not_let_go_keeps_no_other_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage, unlink = LocalFolder(tmp_path), Path.unlink
    names = [storage.put(content)[0] for content in (b"one", b"two")]
    first = tmp_path / names[0]
    monkeypatch.setattr(Path, "unlink", lambda self, **more: refuse() if self == first else unlink(self, **more))
    deleted, errors = delete_each(storage.delete, names)
    assert (deleted, list(map(type, errors))) == ({names[1]: 1}, [PermissionError])
    assert [file.name for file in storage.list_files()] == [names[0]]


@pytest.mark.parametrize("held", [b"1", b"2", b"3"])
def test_nor_does_it_in_a_folder_that_is_deleted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, held: bytes) -> None:
    """The others know people who were erased, too."""
    storage, unlink = LocalFolder(tmp_path), os.unlink
    names = {content: storage.put(content, "checkpoints/job/1")[0] for content in (b"1", b"2", b"3")}

    def hold(path: Any, **more: Any) -> None:
        if Path(path).name == Path(names[held]).name:  # rmtree names it within its folder
            refuse()
        unlink(path, **more)

    monkeypatch.setattr(os, "unlink", hold)
    with pytest.raises(PermissionError):
        storage.delete_folder("checkpoints/job")
    assert [file.name for file in storage.list_files()] == [names[held]]
