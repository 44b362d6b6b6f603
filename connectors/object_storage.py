"""A bucket of an object storage, through fsspec: S3 and what speaks its API, Google Cloud Storage, Azure.

An object appears when its upload is complete. It is read back before the upload counts, and each download is verified, so a storage
that loses, alters or cuts content is found out at once. On S3 a deletion removes all versions of an object.
"""

import hashlib
import os
import tempfile
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar
from uuid import uuid4

from connectors.storage import DISK_FULL, StorageError, StorageForbidden, StorageUnreachable, StoredFile
from unlearning.errors import WeightsDamaged, WeightsMissing
from unlearning.files import file_sha256

T = TypeVar("T")

WAITS = (1.0, 5.0)
"""Seconds before the second and the third try of a call. The client of S3 tries five times within each."""

CACHE_AGE = timedelta(days=1)
"""How long after its last use a copy is kept on this machine."""

NEEDLESS_AGE = timedelta(minutes=10)
"""The same for a copy of what the ledger does not need any more, such as purged weights."""

CHUNK = 4 * 1024 * 1024
LISTED = 1000
"""Keys that S3 lists and deletes in one call."""

EXTRAS = {"s3": ("s3fs", "s3"), "gs": ("gcsfs", "gcs"), "gcs": ("gcsfs", "gcs")}
"""The client of a protocol, and the end of the extra that brings it. All others are Azure's."""

OPTIONS: dict[str, dict[str, Any]] = {
    "s3": {"config_kwargs": {"connect_timeout": 10, "read_timeout": 60, "retries": {"max_attempts": 0}}},
}
"""What a protocol's client is given beside what it finds in the environment."""


UPLOAD_SECONDS, SLOWEST = 1800, 2**22
"""Seconds that any upload may take, and bytes a second for which a larger one has more of them. Its client has limits for reading
alone, and a server may take the call and read nothing."""


class _Altered(Exception):
    """Content is not there after it was written, or came back with another digest."""


class ObjectStorage:
    """The objects under a URL. cache: a folder for copies, each named by its digest."""

    def __init__(self, url: str, *, cache: Path) -> None:
        self.url = url
        self.cache = cache
        self.is_s3 = url.startswith("s3://")
        self._client: tuple[int, Any, str] | None = None

    def __getstate__(self) -> dict[str, Any]:
        """Leave the connection behind: another process of a job makes its own."""
        return {**self.__dict__, "_client": None}

    @property
    def work_folder(self) -> Path:
        """The folder of copies."""
        return self._own_cache()

    def put(self, content: bytes, folder: str = "") -> tuple[str, str]:
        """Upload `<sha256>.safetensors`, and read it back."""
        sha256 = hashlib.sha256(content).hexdigest()
        name = str(PurePosixPath(folder) / f"{sha256}.safetensors")
        self._upload(name, sha256, lambda fs, path: fs.pipe_file(path, content, **_limit(fs, len(content))))
        return name, sha256

    def put_file(self, path: Path, sha256: str) -> str:
        """Upload a file as `<sha256>.safetensors`, and read it back."""
        name, size = f"{sha256}.safetensors", path.stat().st_size
        self._upload(name, sha256, lambda fs, target: fs.put_file(str(path), target, **_limit(fs, size)))
        return name

    def _upload(self, name: str, sha256: str, send: Callable[[Any, str], object]) -> None:
        def upload(fs: Any, root: str) -> None:
            send(fs, f"{root}/{name}")
            found = hashlib.sha256()
            try:
                with fs.open(f"{root}/{name}", "rb", cache_type="none", block_size=CHUNK) as file:
                    while chunk := file.read(CHUNK):
                        found.update(chunk)
            except FileNotFoundError:
                raise _Altered("it was uploaded, and the storage has lost it") from None
            if found.hexdigest() != sha256:
                raise _Altered("it was uploaded, and comes back altered")

        self._call(f"{name} could not be written", upload)

    def fetch(self, name: str, sha256: str) -> Path:
        """Download a file unless this machine has a copy with the right digest. Deletes copies that were not used for a day.

        Raises WeightsMissing, WeightsDamaged.
        """
        cache = self._own_cache()
        self._delete_copies(unused_for=CACHE_AGE, keep=frozenset())
        path = cache / sha256
        if path.exists() and file_sha256(path) == sha256:
            os.utime(path)
            return path

        def download(fs: Any, root: str) -> None:
            handle, temporary = tempfile.mkstemp(dir=cache, prefix=".reading-")
            os.close(handle)
            try:
                fs.get_file(f"{root}/{name}", temporary)
                found = file_sha256(Path(temporary))
                if found != sha256:
                    raise _Altered(f"{name} comes back with SHA-256 {found}; the ledger recorded {sha256}")
                os.replace(temporary, path)
            finally:
                Path(temporary).unlink(missing_ok=True)

        path.unlink(missing_ok=True)
        try:
            self._call(f"{name} could not be read", download)
        except FileNotFoundError:
            raise WeightsMissing(f"There is no file {name} in {self.url}; restore it from the backup.") from None
        except StorageUnreachable as error:
            if isinstance(error.__cause__, _Altered):
                raise WeightsDamaged(f"{self.url}: {error.__cause__}. Restore it from the backup.") from None
            raise
        return path

    def sign(self, name: str, *, seconds: int) -> str | None:
        """Have the client sign a URL; None if it cannot."""

        def sign(fs: Any, root: str) -> str | None:
            with suppress(NotImplementedError):
                return str(fs.sign(f"{root}/{name}", expiration=seconds))
            return None

        return self._call(f"no URL could be signed for {name}", sign)

    def delete(self, name: str) -> int:
        """Delete an object: on S3 with all of its versions, elsewhere the one that there is."""
        (self._own_cache() / PurePosixPath(name).stem).unlink(missing_ok=True)
        if self.is_s3:
            return self._call(f"{name} could not be deleted", lambda fs, root: _delete_versions(fs, f"{root}/{name}"))

        def delete(fs: Any, root: str) -> int:
            found = bool(fs.exists(f"{root}/{name}"))
            if found:
                fs.rm_file(f"{root}/{name}")
            if fs.exists(f"{root}/{name}"):
                raise StorageError(
                    f"{name} is still in {self.url} after it was deleted. Is it under a retention policy?"
                )
            return int(found)

        return self._call(f"{name} could not be deleted", delete)

    def delete_folder(self, folder: str) -> None:
        """Delete all objects under a folder, one after the other."""
        for file in list(self.list_files(folder)):
            self.delete(file.name)

    def list_files(self, folder: str = "") -> Iterator[StoredFile]:
        """List the objects under a folder; on S3 also those of which a deletion that did not end has left old versions."""

        def find(fs: Any, root: str) -> list[StoredFile]:
            prefix = f"{root}/{folder}/" if folder else f"{root}/"
            if self.is_s3:
                found = {path: at for path, _, at in _list_versions(fs, prefix)}
            else:
                found = {path: _changed_at(info) for path, info in fs.find(prefix, detail=True).items()}
            return [StoredFile(path.removeprefix(f"{root}/"), at) for path, at in sorted(found.items())]

        try:
            yield from self._call("its files could not be listed", find)
        except FileNotFoundError:
            return

    def delete_unfinished(self, *, older_than: timedelta) -> int:
        """Delete the parts of uploads that were broken off, which S3 keeps and nobody sees."""
        if not self.is_s3:
            return 0
        limit = datetime.now(UTC) - older_than

        def abort(fs: Any, root: str) -> int:
            bucket, _, prefix = f"{root}/".partition("/")
            found = fs.call_s3("list_multipart_uploads", Bucket=bucket, Prefix=prefix).get("Uploads", [])
            old = [upload for upload in found if upload["Initiated"] <= limit]
            for upload in old:
                fs.call_s3("abort_multipart_upload", Bucket=bucket, Key=upload["Key"], UploadId=upload["UploadId"])
            return len(old)

        return self._call("unfinished uploads could not be deleted", abort)

    def delete_copies(self, read_needed: Callable[[], Collection[str]]) -> None:
        """Delete copies that are not needed any more, once they were not used for a while: one may be about to be read."""
        if any(path.is_file() for path in self._own_cache().iterdir()):
            needed = frozenset(PurePosixPath(name).stem for name in read_needed())
            self._delete_copies(unused_for=NEEDLESS_AGE, keep=needed)
            self._delete_copies(unused_for=CACHE_AGE, keep=frozenset())

    def _delete_copies(self, *, unused_for: timedelta, keep: frozenset[str]) -> None:
        limit = time.time() - unused_for.total_seconds()
        for path in self._own_cache().iterdir():
            with suppress(FileNotFoundError):
                if path.is_file() and path.name not in keep and path.stat().st_mtime < limit:
                    path.unlink()

    def free_bytes(self) -> tuple[int, int] | None:
        """None: a bucket has no size."""
        return None

    def check(self) -> str:
        """Write, read and delete an object."""
        name, sha256 = self.put(uuid4().bytes, ".doctor")
        path = self.fetch(name, sha256)
        if not path.exists():
            raise StorageUnreachable(f"{self.url} has lost {name} right after it was uploaded.")
        self.delete(name)
        if self.is_s3:
            return "Written, read back and deleted with all versions"
        return "Written, read back and deleted; earlier versions that the bucket may keep are not deleted by Expunge"

    def _own_cache(self) -> Path:
        """Create the folder of copies for this user alone. Raises StorageForbidden if another user could read or replace them."""
        self.cache.mkdir(parents=True, exist_ok=True, mode=0o700)
        found = self.cache.stat()
        if found.st_uid != os.getuid() or found.st_mode & 0o077:
            raise StorageForbidden(
                f"{self.cache} must belong to this user alone (mode 0700): it holds copies of weights. "
                "Change it, or set EXPUNGE_STORAGE_CACHE."
            )
        return self.cache

    def _call(self, failed: str, act: Callable[[Any, str], T]) -> T:
        """Call the client, again after a failure that may pass, each time with a new session, which reads the credentials anew.

        Raises FileNotFoundError for an object that is not there, StorageForbidden, StorageUnreachable, and OSError for a full disk.
        """
        for wait in (*WAITS, None):
            try:
                return act(*self._connect())
            except Exception as error:
                if isinstance(error, FileNotFoundError) and _code(error) != "NoSuchBucket":
                    raise
                if isinstance(error, StorageError) or (isinstance(error, OSError) and error.errno in DISK_FULL):
                    raise
                self._client = None
                if wait is None:
                    raise self._as_storage_error(failed, error) from error
                time.sleep(wait)
        raise AssertionError("the last try returns or raises")

    def _as_storage_error(self, failed: str, error: Exception) -> StorageError:
        """Say what happened and what to do. No message of the client is passed on but S3's code: it could quote a credential."""
        code, kind = _code(error), type(error).__name__
        if code == "NoSuchBucket" or isinstance(error, FileNotFoundError):
            return StorageForbidden(f"{self.url}: {failed}: there is no such bucket.")
        if code in ("ExpiredToken", "ExpiredTokenException", "TokenRefreshRequired", "RequestTimeTooSkewed"):
            return StorageForbidden(f"{self.url}: {failed}: the credentials have expired ({code}). Renew them.")
        if isinstance(error, PermissionError) or kind in ("NoCredentialsError", "PartialCredentialsError"):
            return StorageForbidden(
                f"{self.url}: {failed}: permission denied ({code or kind}). See docs/integrations/storage.md."
            )
        if isinstance(error, _Altered):
            return StorageUnreachable(f"{self.url}: {failed}: {error}.")
        return StorageUnreachable(f"{self.url}: {failed}: {code or kind}. Is it up, and is the network?")

    def _connect(self) -> tuple[Any, str]:
        """Return this process's client, and the bucket with the prefix. Raises StorageForbidden if its library is missing."""
        if self._client is None or self._client[0] != os.getpid():
            import fsspec

            protocol = self.url.partition("://")[0]
            try:
                options = {**OPTIONS.get(protocol, {}), **({"session": _s3_session()} if self.is_s3 else {})}
                fs, root = fsspec.url_to_fs(self.url, skip_instance_cache=True, use_listings_cache=False, **options)
            except ImportError:
                name, extra = EXTRAS.get(protocol, ("adlfs", "azure"))
                raise StorageForbidden(
                    f"{self.url} needs {name}, which is not installed: pip install 'expunge[storage-{extra}]'."
                ) from None
            self._client = os.getpid(), fs, str(root).rstrip("/")
        return self._client[1:]


def _limit(fs: Any, size: int) -> dict[str, float]:
    """Give an upload's limit of time to a client that takes one: those that run in a loop of their own do. size: in bytes."""
    return {"timeout": max(UPLOAD_SECONDS, size / SLOWEST)} if getattr(fs, "async_impl", False) else {}


def _s3_session() -> Any:
    """Make a session of AWS' SDK whose uploads do not ask for the server's consent first (`Expect: 100-continue`).

    The client would wait for it without a limit of time. Raises ImportError.
    """
    from aiobotocore.session import AioSession  # type: ignore[import-untyped]  # it ships no types
    from botocore.handlers import add_expect_header  # type: ignore[import-untyped]

    session = AioSession()
    session.unregister("before-call.s3", add_expect_header)
    return session


def _code(error: BaseException) -> str | None:
    """S3's code of an error, as NoSuchKey."""
    for each in (error, error.__cause__):
        response = getattr(each, "response", None)
        if isinstance(response, dict):
            return str(response.get("Error", {}).get("Code"))
    return None


def _list_versions(fs: Any, prefix: str) -> Iterator[tuple[str, str, datetime]]:
    """List the versions of S3 objects, delete markers included: the path, the version's ID, and its time."""
    bucket, _, prefix = prefix.partition("/")
    marker: dict[str, str] = {}
    while True:
        page = fs.call_s3("list_object_versions", Bucket=bucket, Prefix=prefix, MaxKeys=LISTED, **marker)
        for version in (*page.get("Versions", ()), *page.get("DeleteMarkers", ())):
            yield f"{bucket}/{version['Key']}", version["VersionId"], version["LastModified"]
        if not page.get("IsTruncated"):
            return
        marker = {"KeyMarker": page["NextKeyMarker"], "VersionIdMarker": page["NextVersionIdMarker"]}


def _delete_versions(fs: Any, path: str) -> int:
    """Delete all versions of an S3 object and verify that none is left. Raises StorageError."""
    bucket, _, key = path.partition("/")

    def find() -> list[str]:
        return [version for found, version, _ in _list_versions(fs, path) if found == path]

    versions = find()
    for start in range(0, len(versions), LISTED):
        chosen = [{"Key": key, "VersionId": version} for version in versions[start : start + LISTED]]
        fs.call_s3("delete_objects", Bucket=bucket, Delete={"Objects": chosen, "Quiet": True})
    left = find() if versions else []
    if left:
        raise StorageError(
            f"{len(left)} of {len(versions)} versions of {key} are still in {bucket} after they were deleted. Does the bucket lock "
            "objects (Object Lock), or is s3:DeleteObjectVersion not allowed?"
        )
    return len(versions)


def _changed_at(info: dict[str, Any]) -> datetime:
    """When an object was written, under whichever name its client gives it. One without a time is new."""
    for name in ("LastModified", "last_modified", "updated", "mtime", "created"):
        found = info.get(name)
        if isinstance(found, str):
            found = datetime.fromisoformat(found)
        if isinstance(found, datetime):
            return found if found.tzinfo is not None else found.replace(tzinfo=UTC)
    return datetime.now(UTC)
