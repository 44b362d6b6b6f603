from pathlib import Path

import pytest

from connectors.settings import open_storage
from connectors.storage import LocalFolder, parse_location


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
