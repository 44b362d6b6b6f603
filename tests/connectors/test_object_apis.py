"""Deletion with all versions: S3 against moto; Google and Azure against emulators, and against their APIs at the wire."""

import hashlib
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from datetime import UTC, datetime, timedelta
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from connectors import object_apis, object_storage
from connectors.object_storage import ObjectStorage
from connectors.storage import StorageError, StorageForbidden
from tests.connectors import object_servers
from tests.connectors.object_servers import (
    AzureServer,
    GoogleServer,
    ObjectServer,
    Stall,
    Stored,
    azurite,
    gcp_storage_emulator,
    put_testbench,
    set_soft_delete,
    storage_testbench,
)
from tests.fixtures.s3 import BUCKET, S3
from tests.fixtures.waiting import PATIENCE
from unlearning.errors import WeightsMissing

CONTENT = b"weights"
SHA256 = hashlib.sha256(CONTENT).hexdigest()
NAME = f"{SHA256}.safetensors"
OTHER = f"{NAME}.bak"
"""A name that begins with the other one."""

slow = pytest.mark.slow


@pytest.fixture(autouse=True)
def without_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(object_storage, "WAITS", (0.0, 0.0))


def names(storage: ObjectStorage) -> list[str]:
    return [file.name for file in storage.list_files()]


def test_an_object_whose_name_begins_alike_stays(s3_api: S3, tmp_path: Path) -> None:
    storage = ObjectStorage(f"s3://{BUCKET}/production", cache=tmp_path / "cache")
    storage.put(CONTENT)
    s3_api.client.put_object(Bucket=BUCKET, Key=f"production/{OTHER}", Body=b"other")
    assert storage.delete(NAME) == 1
    assert names(storage) == [OTHER]


def test_many_versions_are_listed_and_deleted_page_by_page(
    s3_api: S3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(object_apis, "LISTED", 2)
    s3_api.client.put_bucket_versioning(Bucket=BUCKET, VersioningConfiguration={"Status": "Enabled"})
    storage = ObjectStorage(f"s3://{BUCKET}/production", cache=tmp_path / "cache")
    for name in (NAME, NAME, NAME, OTHER, NAME, OTHER):
        s3_api.client.put_object(Bucket=BUCKET, Key=f"production/{name}", Body=b"")
    assert storage.delete(NAME) == 4
    assert [key for key, _ in s3_api.versions()] == [f"production/{OTHER}"] * 2


def test_a_version_that_the_bucket_locks_is_found_out_and_the_others_are_deleted(s3_api: S3, tmp_path: Path) -> None:
    locked, key = "expunge-locked", f"production/{NAME}"
    s3_api.client.create_bucket(Bucket=locked, ObjectLockEnabledForBucket=True)
    first = s3_api.client.put_object(Bucket=locked, Key=key, Body=b"")["VersionId"]
    s3_api.client.put_object(Bucket=locked, Key=key, Body=b"")
    until = datetime.now(UTC) + timedelta(days=1)
    s3_api.client.put_object_retention(
        Bucket=locked, Key=key, VersionId=first, Retention={"Mode": "COMPLIANCE", "RetainUntilDate": until}
    )
    storage = ObjectStorage(f"s3://{locked}/production", cache=tmp_path / "cache")
    with pytest.raises(StorageError, match=r"1 of 2 versions .* \(AccessDenied\).*Object Lock"):
        storage.delete(NAME)
    assert names(storage) == [NAME]
    assert [each["VersionId"] for each in s3_api.client.list_object_versions(Bucket=locked)["Versions"]] == [first]


def test_a_file_is_as_old_as_its_newest_version(s3_api: S3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    storage = ObjectStorage(f"s3://{BUCKET}/production", cache=tmp_path / "cache")
    times = [datetime(2026, 11, day, tzinfo=UTC) for day in (3, 28, 1)]
    found = [object_apis.Version(f"{BUCKET}/production/{NAME}", at, {}) for at in times]
    monkeypatch.setattr(storage.api, "list_versions", lambda fs, prefix: iter(found))
    assert [file.changed_at.day for file in storage.list_files()] == [
        28
    ]  # an upload of this moment is not taken for an old one


# From here on it takes the clients of Google and Azure.


def client_of(storage: ObjectStorage) -> tuple[Any, str]:
    """A client for what somebody does by hand, and the bucket with the prefix."""
    return import_module("fsspec").url_to_fs(storage.url, skip_instance_cache=True, use_listings_cache=False)


def of_google(**given: Any) -> GoogleServer:
    pytest.importorskip("gcsfs")
    versions = [Stored(f"production/{NAME}", str(number)) for number in range(1, 6)]
    return GoogleServer([*versions, Stored(f"production/{OTHER}", "6")], **given)


def of_azure(**given: Any) -> AzureServer:
    """An account with versioning: four old versions and a current one, and of another blob one."""
    pytest.importorskip("adlfs")
    blob = f"production/{NAME}"
    old = [Stored(blob, f"2026-11-28T10:00:0{number}.0000000Z") for number in range(4)]
    current = [Stored(name, "2026-11-28T10:00:09.0000000Z", current=True) for name in (blob, f"production/{OTHER}")]
    return AzureServer([*old, *current], **given)


MAKERS = [pytest.param(of_google, marks=slow), pytest.param(of_azure, marks=slow)]


@contextmanager
def storage_of(server: ObjectServer, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ObjectStorage]:
    run: Callable[..., AbstractContextManager[str]] = (
        object_servers.google if isinstance(server, GoogleServer) else object_servers.azure
    )
    monkeypatch.setattr(object_apis.APIS["abfs"], "_has_folders", {})
    with run(server, monkeypatch.setenv) as url:
        yield ObjectStorage(url, cache=folder / "cache")


@pytest.mark.parametrize("make", MAKERS)
def test_all_versions_of_several_pages_are_deleted(
    make: Callable[..., ObjectServer], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = make(page=2)
    with storage_of(server, tmp_path, monkeypatch) as storage:
        assert names(storage) == [NAME, OTHER]
        assert storage.delete(NAME) == 5
        assert names(storage) == [OTHER]
        assert storage.delete(NAME) == 0
        assert list(storage.list_soft_deleted()) == []
    assert [name for name, _ in server.left()] == [f"production/{OTHER}"]


@pytest.mark.parametrize("make", MAKERS)
def test_a_file_of_which_only_old_versions_are_left_is_found(
    make: Callable[..., ObjectServer], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = make()
    server.objects = [one for one in server.objects if not one.current][1:3]
    with storage_of(server, tmp_path, monkeypatch) as storage:
        assert names(storage) == [NAME]
        storage.delete_folder("")
        assert names(storage) == []


@pytest.mark.parametrize(
    ("make", "cause"),
    [
        pytest.param(of_google, "hold", marks=slow),
        pytest.param(of_azure, "BlobImmutable.*immutability policy", marks=slow),
    ],
)
def test_a_version_under_a_hold_is_found_out_and_the_others_are_deleted(
    make: Callable[..., ObjectServer], cause: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = make()
    server.objects[1].held = True
    with storage_of(server, tmp_path, monkeypatch) as storage:
        with pytest.raises(StorageError, match=f"1 of 5 versions .* are still .*{cause}") as raised:
            storage.delete(NAME)
        assert "person-17" not in str(raised.value)
        assert names(storage) == [NAME, OTHER]
        server.objects[0].held = False
        assert storage.delete(NAME) == 1
        assert names(storage) == [OTHER]


@pytest.mark.parametrize(
    ("make", "left"), [pytest.param(of_google, "5 of 5", marks=slow), pytest.param(of_azure, "5 of 5", marks=slow)]
)
def test_without_the_permission_to_delete_versions_the_deletion_fails(
    make: Callable[..., ObjectServer], left: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = make(may_delete=False)
    with storage_of(server, tmp_path, monkeypatch) as storage:
        with pytest.raises(StorageError, match=f"{left} versions .*not allowed"):
            storage.delete(NAME)
        server.may_delete = True
        assert storage.delete(NAME) == 5
        assert names(storage) == [OTHER]


@pytest.mark.parametrize("make", MAKERS)
def test_a_process_that_is_killed_in_the_middle_of_the_versions_twice_leaves_what_the_next_one_deletes(
    make: Callable[..., ObjectServer], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = make()
    with storage_of(server, tmp_path, monkeypatch) as storage:
        code = (
            "from pathlib import Path; from connectors.object_storage import ObjectStorage\n"
            f"ObjectStorage({storage.url!r}, cache=Path({str(storage.cache)!r})).delete({NAME!r})"
        )
        for _ in range(2):
            server.stall, server.deletions = Stall(at=2), 0
            with subprocess.Popen([sys.executable, "-c", code]) as child:
                assert server.stall.reached.wait(PATIENCE)
                child.kill()
            server.stall.go_on.set()
            assert names(storage) == [NAME, OTHER]
        server.stall = None
        assert len(server.left()) < 6
        storage.delete(NAME)
        assert names(storage) == [OTHER]


@pytest.mark.parametrize("make", MAKERS)
def test_a_bucket_that_is_not_there_is_no_empty_one(
    make: Callable[..., ObjectServer], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with storage_of(make(), tmp_path, monkeypatch) as storage:
        with pytest.raises(WeightsMissing, match=NAME):
            storage.fetch(NAME, SHA256)
        storage.url, storage._client = storage.url.replace(BUCKET, "no-such-bucket"), None
        for act in (
            lambda: names(storage),
            lambda: storage.delete(NAME),
            lambda: list(storage.list_soft_deleted()),
            lambda: storage.fetch(NAME, SHA256),
            lambda: storage.put(CONTENT),
        ):
            with pytest.raises(StorageForbidden, match=r"no-such-bucket/production: .* no such bucket"):
                act()


@pytest.mark.parametrize("make", MAKERS)
def test_soft_delete_keeps_what_is_deleted_and_it_is_said(
    make: Callable[..., ObjectServer], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = make(soft_delete_days=7)
    with storage_of(server, tmp_path, monkeypatch) as storage:
        assert storage.delete(NAME) == 5
        assert names(storage) == [OTHER]
        assert storage.delete(NAME) == 0
        (kept,) = storage.list_soft_deleted()
        assert kept.name == NAME
        assert kept.until > datetime.now(UTC) + timedelta(days=6)
    assert sum(one.deleted for one in server.objects) == 5


@slow
def test_google_says_nothing_is_kept_only_if_the_bucket_has_no_policy_of_soft_delete(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = of_google()
    server.knows_soft_delete = False
    with storage_of(server, tmp_path, monkeypatch) as storage:
        assert list(storage.list_soft_deleted()) == []
        server.bucket_readable = False
        with pytest.raises(StorageForbidden, match="permission denied"):
            list(storage.list_soft_deleted())


@slow
def test_azure_deletes_versions_and_snapshots_for_good_where_the_account_permits_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = of_azure(soft_delete_days=7, permanent=True, expired=2)  # each try with a new token comes further
    server.objects.append(Stored(f"production/{NAME}", "2026-11-28T09:00:00.0000000Z", snapshot=True))
    with storage_of(server, tmp_path, monkeypatch) as storage:
        assert storage.delete(NAME) == 6
        assert list(storage.list_soft_deleted()) == []
    assert [one.name for one in server.objects] == [f"production/{OTHER}"]


@slow
def test_azure_keeps_a_blob_without_a_version_although_the_account_permits_permanent_deletion(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = of_azure(soft_delete_days=7, permanent=True, versioning=False)
    server.objects = [one for one in server.objects if one.current]
    with storage_of(server, tmp_path, monkeypatch) as storage:
        assert storage.delete(NAME) == 1
        assert [kept.name for kept in storage.list_soft_deleted()] == [NAME]


@slow
@pytest.mark.parametrize("may_ask", [True, False])
def test_an_azure_account_with_folders_has_snapshots_and_soft_delete_and_no_versions(
    may_ask: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = of_azure(soft_delete_days=7, folders=True, may_ask=may_ask, versioning=False)
    server.objects = [
        Stored("production", "", current=True, folder=True),
        Stored("production/checkpoints", "", current=True, folder=True),
        *(Stored(f"production/{NAME}", f"2026-11-28T09:00:0{number}.0000000Z", snapshot=True) for number in range(4)),
        *(one for one in server.objects if one.current),
    ]
    with storage_of(server, tmp_path, monkeypatch) as storage:
        assert names(storage) == [NAME, OTHER]
        assert storage.delete(NAME) == 5
        assert names(storage) == [OTHER]
        assert [kept.name for kept in storage.list_soft_deleted()] == [NAME]
    assert sum(one.deleted for one in server.objects) == 5


@slow
@pytest.mark.parametrize("soft_delete_days", [None, 7])
def test_an_azure_account_of_which_nothing_may_be_asked_is_listed_all_the_same(
    soft_delete_days: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = of_azure(may_ask=False, soft_delete_days=soft_delete_days)
    with storage_of(server, tmp_path, monkeypatch) as storage:
        assert storage.delete(NAME) == 5
        assert [kept.name for kept in storage.list_soft_deleted()] == [NAME] * bool(soft_delete_days)


@slow
def test_generations_and_soft_delete_of_googles_testbench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with storage_testbench(tmp_path, monkeypatch) as url:
        storage = ObjectStorage(url, cache=tmp_path / "cache")
        fs, root = client_of(storage)
        api = os.environ["STORAGE_EMULATOR_HOST"]
        for name in (NAME, NAME, NAME, OTHER):
            put_testbench(api, f"production/{name}")
        assert len(list(storage.api.list_versions(fs, f"{root}/{NAME}"))) == 4
        fs.rm_file(f"{root}/{NAME}")  # by hand: two old generations are left
        assert not fs.exists(f"{root}/{NAME}")
        assert names(storage) == [NAME, OTHER]
        assert storage.delete(NAME) == 2
        assert names(storage) == [OTHER]
        assert list(storage.list_soft_deleted()) == []

        set_soft_delete(api, "PATCH", days=7)
        put_testbench(api, f"production/{NAME}")
        assert storage.delete(NAME) == 1
        (kept,) = storage.list_soft_deleted()
        assert kept.name == NAME
        assert timedelta(days=6) < kept.until - datetime.now(UTC) <= timedelta(days=7)


@slow
def test_soft_delete_of_the_emulator_of_google(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with gcp_storage_emulator(tmp_path, monkeypatch) as url:
        storage = ObjectStorage(url, cache=tmp_path / "cache")
        storage.put(CONTENT)
        assert storage.delete(NAME) == 1
        assert [kept.name for kept in storage.list_soft_deleted()] == [NAME]
        assert "soft delete keeps what is deleted for up to 7 days" in storage.check()


@slow
def test_snapshots_of_azurite(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with azurite(tmp_path, monkeypatch) as url:
        storage = ObjectStorage(url, cache=tmp_path / "cache")
        storage.put(CONTENT)
        fs, root = client_of(storage)
        fs.pipe_file(f"{root}/{OTHER}", b"other")
        blobs = import_module("azure.storage.blob").BlobServiceClient.from_connection_string(fs.connection_string)
        with blobs as service, service.get_blob_client(BUCKET, f"production/{NAME}") as blob:
            for _ in range(2):
                blob.create_snapshot()
        assert len(list(storage.api.list_versions(fs, f"{root}/{NAME}"))) == 4
        assert storage.delete(NAME) == 3
        assert names(storage) == [OTHER]
        assert storage.check() == "Written, read back and deleted with all versions"
