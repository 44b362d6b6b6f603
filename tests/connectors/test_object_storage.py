"""Object storage against a real S3 API, with everything that goes wrong in between."""

import hashlib
import os
import pickle
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from connectors import object_storage
from connectors.object_apis import APIS, S3_CONFIG, Version
from connectors.object_storage import ObjectStorage
from connectors.storage import StorageError, StorageForbidden, StorageUnreachable
from tests.connectors.object_servers import azurite, gcp_storage_emulator
from tests.fixtures import s3
from tests.fixtures.s3 import BUCKET, S3
from tests.fixtures.servers import silent
from tests.fixtures.waiting import PATIENCE
from unlearning.errors import WeightsDamaged, WeightsMissing

URL = f"s3://{BUCKET}/production"
CONTENT = bytes(range(256)) * 1024
SHA256 = hashlib.sha256(CONTENT).hexdigest()
NAME = f"{SHA256}.safetensors"
FORBIDDEN = s3.refuse("403 Forbidden", "AccessDenied")
EXPIRED = s3.refuse("400 Bad Request", "ExpiredToken")


@pytest.fixture
def storage(s3_api: S3, tmp_path: Path) -> ObjectStorage:
    return ObjectStorage(URL, cache=tmp_path / "cache")


def keep_versions(s3_api: S3) -> None:
    s3_api.client.put_bucket_versioning(Bucket=BUCKET, VersioningConfiguration={"Status": "Enabled"})


def test_what_one_host_has_written_another_one_reads_and_keeps_as_a_copy(
    s3_api: S3, storage: ObjectStorage, tmp_path: Path
) -> None:
    assert storage.put(CONTENT) == (NAME, SHA256)
    other = ObjectStorage(URL, cache=tmp_path / "other host")
    path = other.fetch(NAME, SHA256)
    assert path.read_bytes() == CONTENT
    assert path.stat().st_mode & 0o077 == 0
    before = len(s3_api.calls)
    assert other.fetch(NAME, SHA256) == path
    assert len(s3_api.calls) == before
    path.write_bytes(b"damaged here")
    assert other.fetch(NAME, SHA256).read_bytes() == CONTENT


def test_files_are_found_under_their_folders(s3_api: S3, storage: ObjectStorage, tmp_path: Path) -> None:
    source = tmp_path / "weights"
    source.write_bytes(CONTENT)
    assert storage.put_file(source, SHA256) == NAME
    name, _ = storage.put(b"state", "checkpoints/job/1")
    s3_api.client.put_object(
        Bucket=BUCKET, Key="production/checkpoints/", Body=b""
    )  # a folder's mark, as consoles make it
    assert {file.name for file in storage.list_files()} == {NAME, name}
    assert [file.name for file in storage.list_files("checkpoints")] == [name]
    storage.delete_folder("checkpoints/job")
    assert [file.name for file in storage.list_files()] == [NAME]
    with pytest.raises(WeightsMissing, match=name):
        storage.fetch(name, hashlib.sha256(b"state").hexdigest())


@pytest.mark.parametrize("fault", [s3.cut_off, s3.pretend, s3.alter_upload, FORBIDDEN, EXPIRED])
def test_an_upload_that_fails_once_is_made_again(s3_api: S3, storage: ObjectStorage, fault: s3.Fault) -> None:
    s3_api.break_calls("PUT", fault, times=1)
    storage.put(CONTENT)
    assert storage.fetch(NAME, SHA256).read_bytes() == CONTENT


@pytest.mark.parametrize(
    ("fault", "error", "message"),
    [
        (s3.cut_off, StorageUnreachable, "could not be written"),
        (s3.pretend, StorageUnreachable, "lost"),
        (s3.alter_upload, StorageUnreachable, "altered"),
        (FORBIDDEN, StorageForbidden, "permission denied"),
        (EXPIRED, StorageForbidden, "expired"),
        (s3.refuse("503 Slow Down", "SlowDown"), StorageUnreachable, "SlowDown"),
    ],
)
def test_an_upload_that_goes_on_failing_is_an_error_that_says_why(
    s3_api: S3, storage: ObjectStorage, fault: s3.Fault, error: type[Exception], message: str
) -> None:
    s3_api.break_calls("PUT", fault)
    with pytest.raises(error, match=message) as raised:
        storage.put(CONTENT)
    assert "person-17" not in str(raised.value)
    assert "test-secret" not in str(raised.value)


def test_a_worker_that_is_killed_in_the_middle_of_an_upload_leaves_nothing_twice(
    s3_api: S3, storage: ObjectStorage
) -> None:
    reached, gone = threading.Event(), threading.Event()

    def stall(environment: dict[str, Any], start: Callable[..., Any], answer: Any) -> list[bytes]:
        environment["wsgi.input"].read(1000)
        reached.set()
        try:
            while environment["wsgi.input"].read(4096):
                pass
        except OSError:
            pass  # A killed process may leave a reset in place of an end.
        finally:
            gone.set()
        return s3.cut_off(environment, start, answer)

    s3_api.break_calls("PUT", stall, times=1)
    code = (
        "from pathlib import Path; from connectors.object_storage import ObjectStorage\n"
        f"ObjectStorage({URL!r}, cache=Path({str(storage.cache)!r})).put(bytes(range(256)) * 40_000)"
    )
    with subprocess.Popen([sys.executable, "-c", code]) as child:
        assert reached.wait(PATIENCE)
        child.kill()
    assert gone.wait(PATIENCE)
    assert list(storage.list_files()) == []
    name, sha256 = storage.put(CONTENT * 40)
    assert storage.fetch(name, sha256).stat().st_size == 40 * len(CONTENT)


@pytest.mark.parametrize("change", [lambda content: content[:-7], lambda content: bytes(len(content))])
def test_an_object_that_comes_back_cut_or_altered_is_never_used(
    s3_api: S3, storage: ObjectStorage, change: Callable[[bytes], bytes]
) -> None:
    storage.put(CONTENT)
    s3_api.break_calls("GET", s3.change_download(change), times=1)
    assert storage.fetch(NAME, SHA256).read_bytes() == CONTENT  # the next try is right
    (storage.cache / SHA256).unlink()
    s3_api.break_calls("GET", s3.change_download(change))
    with pytest.raises(WeightsDamaged, match="Restore it"):
        storage.fetch(NAME, SHA256)
    assert not any(path.is_file() for path in storage.cache.iterdir())


def test_reading_without_permission_or_without_a_bucket_is_no_missing_file(s3_api: S3, tmp_path: Path) -> None:
    storage = ObjectStorage(URL, cache=tmp_path / "cache")
    storage.put(CONTENT)
    for method in ("GET", "HEAD"):
        s3_api.break_calls(method, FORBIDDEN)
    with pytest.raises(StorageForbidden, match="permission denied"):
        storage.fetch(NAME, SHA256)
    with pytest.raises(StorageForbidden, match="no such bucket"):
        ObjectStorage("s3://no-such-bucket/x", cache=tmp_path / "cache").put(CONTENT)
    with pytest.raises(StorageForbidden, match="no such bucket"):
        ObjectStorage("s3://no-such-bucket/x", cache=tmp_path / "cache").fetch(NAME, SHA256)


def test_a_storage_that_takes_the_call_and_says_nothing_is_unreachable(
    s3_api: S3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(S3_CONFIG, "read_timeout", 0.2)
    with silent() as port:
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")
        storage = ObjectStorage(URL, cache=tmp_path / "cache")
        for act in (lambda: storage.put(CONTENT[:100]), lambda: storage.fetch(NAME, SHA256)):
            with pytest.raises(StorageUnreachable):
                act()
        monkeypatch.setattr(object_storage, "WAITS", ())
        monkeypatch.setattr(object_storage, "UPLOAD_SECONDS", 0.2)
        with pytest.raises(StorageUnreachable):
            storage.put(CONTENT * 32)  # more than the buffers of the connection hold


def test_a_large_upload_may_take_longer(
    s3_api: S3, storage: ObjectStorage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(object_storage, "WAITS", ())
    monkeypatch.setattr(object_storage, "UPLOAD_SECONDS", 1e-6)
    with pytest.raises(StorageUnreachable):
        storage.put(b"small")
    monkeypatch.setattr(object_storage, "SLOWEST", len(CONTENT) / PATIENCE)
    source = tmp_path / "weights"
    source.write_bytes(CONTENT)

    assert storage.put(CONTENT) == (NAME, SHA256)
    assert storage.put_file(source, SHA256) == NAME


def test_a_deletion_removes_all_versions(s3_api: S3, storage: ObjectStorage) -> None:
    keep_versions(s3_api)
    for content in (CONTENT, CONTENT):
        storage.put(content)
    kept, _ = storage.put(b"kept")
    storage.fetch(NAME, SHA256)
    assert storage.delete(NAME) == 2
    assert [key for key, _ in s3_api.versions()] == [f"production/{kept}"]
    assert not (storage.cache / SHA256).exists()
    assert storage.delete(NAME) == 0


def test_versions_that_an_earlier_deletion_has_left_are_found_and_deleted(s3_api: S3, storage: ObjectStorage) -> None:
    keep_versions(s3_api)
    storage.put(CONTENT)
    s3_api.client.delete_object(Bucket=BUCKET, Key=f"production/{NAME}")  # leaves a marker, and the content
    assert [file.name for file in storage.list_files()] == [NAME]
    assert storage.delete(NAME) == 2
    assert s3_api.versions() == []


def test_a_bucket_that_keeps_what_it_says_to_have_deleted_is_found_out(s3_api: S3, storage: ObjectStorage) -> None:
    storage.put(CONTENT)
    s3_api.break_calls("POST", s3.pretend)
    with pytest.raises(StorageError, match="still"):
        storage.delete(NAME)


def test_the_parts_of_uploads_that_never_ended_are_deleted(s3_api: S3, storage: ObjectStorage) -> None:
    begun = s3_api.client.create_multipart_upload(Bucket=BUCKET, Key=f"production/{NAME}")
    s3_api.client.upload_part(
        Bucket=BUCKET, Key=f"production/{NAME}", UploadId=begun["UploadId"], PartNumber=1, Body=CONTENT
    )
    assert list(storage.list_files()) == []
    assert storage.delete_unfinished(older_than=timedelta(days=36500)) == 0
    assert storage.delete_unfinished(older_than=timedelta(days=1)) == 1  # moto says that all began in 2010
    assert "Uploads" not in s3_api.client.list_multipart_uploads(Bucket=BUCKET)


def test_copies_are_deleted_once_nobody_needs_them(s3_api: S3, storage: ObjectStorage) -> None:
    storage.delete_copies(lambda: pytest.fail("there is no copy"))
    paths = [storage.fetch(*storage.put(content)) for content in (b"served", b"purged", b"of yesterday")]
    needed = [f"{paths[0].name}.safetensors", f"{paths[2].name}.safetensors"]
    storage.delete_copies(lambda: needed)  # one of them may be about to be read
    assert all(path.exists() for path in paths)
    for path, hours in zip(paths, (1, 1, 30), strict=True):
        os.utime(path, (path.stat().st_mtime - 3600 * hours,) * 2)
    storage.delete_copies(lambda: needed)
    assert [path.exists() for path in paths] == [True, False, False]


def test_of_processes_that_use_a_copy_the_last_one_deletes_it(
    s3_api: S3, storage: ObjectStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = ObjectStorage(URL, cache=storage.cache)
    mine, used_since, used_before, used_long_ago = (
        storage.put(content) for content in (b"mine", b"since", b"before", b"long ago")
    )
    with monkeypatch.context() as patched:
        patched.setattr(time, "time_ns", lambda: int(1e9 * (time.time() - 3600)))
        paths = {used_long_ago: other.fetch(*used_long_ago)}
    paths[used_before] = other.fetch(*used_before)
    for name in (mine, mine, used_since, used_before, used_long_ago):
        paths[name] = storage.fetch(*name)
    other.fetch(*used_since)

    storage.delete_own_copies()
    left = {name for name, path in paths.items() if path.exists()}
    assert left == {used_since, used_before}
    storage.delete_own_copies()
    assert all(paths[name].exists() for name in left)
    other.delete_own_copies()
    assert not any(path.exists() for path in paths.values())


def test_a_process_that_was_killed_keeps_no_copy_from_being_deleted(s3_api: S3, storage: ObjectStorage) -> None:
    """Its note of what it used is left, and the system has unlocked it. One that still lives keeps its copy."""
    path = storage.fetch(*storage.put(CONTENT))
    note = f"{SHA256} {time.time_ns()}"
    program = f"""
import fcntl, sys
file = open(sys.argv[1], "w")
file.write({note!r})
file.flush()
fcntl.flock(file, fcntl.LOCK_EX)
print("noted", flush=True)
sys.stdin.read()
"""
    users = storage.cache / ".users"
    command = [sys.executable, "-c", program, str(users / "another")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as another:
        assert another.stdout is not None
        another.stdout.readline()
        storage.delete_own_copies()
        assert path.exists()
        storage.fetch(path.name, SHA256)
        another.kill()
    storage.delete_own_copies()
    assert not path.exists()
    assert [file.name for file in users.iterdir()] == ["lock"]


def test_where_nothing_was_copied_no_folder_is_made(s3_api: S3, storage: ObjectStorage) -> None:
    storage.put(CONTENT)
    storage.delete_copies(lambda: pytest.fail("there is no copy"))
    storage.delete_own_copies()
    assert not storage.cache.exists()


def test_a_folder_of_copies_that_others_can_read_is_refused(s3_api: S3, tmp_path: Path) -> None:
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o755)
    storage = ObjectStorage(URL, cache=shared)
    name, sha256 = storage.put(CONTENT)
    with pytest.raises(StorageForbidden, match="EXPUNGE_STORAGE_CACHE"):
        storage.fetch(name, sha256)


def test_another_process_of_a_job_gets_the_storage_without_its_connection(s3_api: S3, storage: ObjectStorage) -> None:
    name, sha256 = storage.put(CONTENT)
    sent = pickle.loads(pickle.dumps(storage))
    assert sent.fetch(name, sha256).read_bytes() == CONTENT


def test_the_check_writes_reads_and_deletes(s3_api: S3, storage: ObjectStorage) -> None:
    assert "all versions" in storage.check()
    assert s3_api.versions() == []
    s3_api.break_calls("PUT", FORBIDDEN)
    with pytest.raises(StorageForbidden):
        storage.check()


def test_sessions_share_the_descriptions_of_the_api_and_no_credential() -> None:
    one, other = (APIS["s3"].options()["session"] for _ in range(2))
    assert one.get_component("data_loader") is other.get_component("data_loader")
    assert one.get_component("credential_provider") is not other.get_component("credential_provider")


class Memory:
    """fsspec's own storage in memory, which stands for the others where they are not installed. It keeps no versions."""

    client, extra, may_keep = "fsspec", "", ""

    def options(self) -> dict[str, Any]:
        return {}

    def list_versions(self, fs: Any, prefix: str) -> Iterator[Version]:
        for path, info in fs.find(prefix.rsplit("/", 1)[0], detail=True).items():
            if path.startswith(prefix):
                yield Version(path, info["created"], {})

    def delete_versions(self, fs: Any, path: str, versions: Sequence[Version]) -> set[str]:
        for _ in versions:
            fs.rm_file(path)
        return set()

    def list_soft_deleted(self, fs: Any, prefix: str) -> Iterator[tuple[str, datetime]]:
        return iter(())

    def delete_unfinished(self, fs: Any, prefix: str, *, limit: datetime) -> int:
        return 0


@contextmanager
def in_memory(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setitem(APIS, "memory", Memory())
    yield "memory://bucket/production"


@pytest.mark.parametrize(
    "kind",
    [
        in_memory,
        *(pytest.param(kind, marks=pytest.mark.slow) for kind in (gcp_storage_emulator, azurite)),
    ],
)
def test_another_object_storage_goes_through_the_same_steps(
    kind: Callable[..., AbstractContextManager[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tmp_path / "source"
    source.write_bytes(CONTENT)
    with kind(tmp_path, monkeypatch) as url:
        storage, other = (ObjectStorage(url, cache=tmp_path / name) for name in ("cache", "another host"))
        assert storage.put(CONTENT) == (NAME, SHA256)
        assert storage.put_file(source, SHA256) == NAME
        state, _ = storage.put(b"state", "checkpoints/job")
        assert other.fetch(NAME, SHA256).read_bytes() == CONTENT
        assert {file.name for file in storage.list_files()} == {NAME, state}
        storage.delete_folder("checkpoints")
        assert [file.name for file in storage.list_files()] == [NAME]
        assert (storage.delete(NAME), storage.delete(NAME)) == (1, 0)
        assert list(storage.list_files()) == []
        with pytest.raises(WeightsMissing):
            storage.fetch(NAME, SHA256)
        assert "all versions" in storage.check()


def test_a_storage_whose_client_is_not_installed_says_which(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gcsfs", None)
    with pytest.raises(StorageForbidden, match="storage-gcs"):
        ObjectStorage("gcs://bucket", cache=tmp_path).put(CONTENT)
