"""A bucket of an object storage, through fsspec: S3 and what speaks its API, Google Cloud Storage, Azure.

An object appears when its upload is complete. It is read back before the upload counts, and each download is verified, so a storage
that loses, alters or cuts content is found out at once. A deletion removes all versions of an object, and lists the bucket again.
What a bucket keeps by soft delete nobody can remove before its time; it is listed and said.
"""

import fcntl
import hashlib
import os
import tempfile
import time
import weakref
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path, PurePosixPath
from typing import Any, TextIO, TypeVar
from uuid import uuid4

from connectors.object_apis import APIS, NoBucket, Version, code_of, is_refusal
from connectors.storage import (
    DISK_FULL,
    SoftDeleted,
    StorageError,
    StorageForbidden,
    StorageUnreachable,
    StoredFile,
    delete_all,
)
from unlearning.errors import WeightsDamaged, WeightsMissing
from unlearning.files import content_sha256, file_sha256

T = TypeVar("T")

WAITS = (1.0, 5.0)
"""Seconds before the second and the third try of a call. The client of S3 tries five times within each."""

CACHE_AGE = timedelta(days=1)
"""How long after its last use a copy is kept on this machine."""

NEEDLESS_AGE = timedelta(minutes=10)
"""The same for a copy of what the ledger does not need any more, such as purged weights."""

CHUNK = 4 * 1024 * 1024

NOTES, LOCK = ".users", "lock"
"""The folder of the processes' notes of the copies that they use, and its file that is locked while one is read or written."""

CHECKS = ".doctor"
"""The folder of what `check` writes."""

ROUNDS = 2
"""How often an object's versions are listed and deleted: a storage may keep the current one, once deleted, as an old one."""

UPLOAD_SECONDS, SLOWEST = 1800, 2**22
"""An upload may take so many seconds, and a large one as long as it takes at so many bytes a second. The client limits reads only,
while a server may take the call and read nothing."""

NO_BUCKET = ("NoSuchBucket", "ContainerNotFound")
"""The codes with which S3 and Azure say that there is no such bucket."""


class _Altered(Exception):
    """Content is not there after it was written, or came back with another digest."""


class ObjectStorage:
    """The objects under a URL. cache: a folder for copies, each named by its digest."""

    def __init__(self, url: str, *, cache: Path) -> None:
        self.url = url
        self.cache = cache
        self.api = APIS[url.partition("://")[0]]
        self._client: tuple[int, Any, str] | None = None
        self._note: tuple[int, TextIO] | None = None
        """The process's ID, and the file in which it notes the copies that it uses. A lock on it lasts as long as the process."""
        self._used: dict[str, int] = {}
        """These copies: by digest, when it used them last, in nanoseconds."""

    def __getstate__(self) -> dict[str, Any]:
        """Leave the connection and the uses behind: another process of a job has its own."""
        return {**self.__dict__, "_client": None, "_note": None, "_used": {}}

    @property
    def work_folder(self) -> Path:
        """The folder of copies."""
        return self._own_cache()

    def put(self, content: bytes, folder: str = "") -> tuple[str, str]:
        """Upload `<sha256>.safetensors`, and read it back."""
        sha256 = content_sha256(content)
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
        self._note_use(sha256)  # first, so that no other process deletes it
        with suppress(FileNotFoundError):
            os.utime(path)
            if file_sha256(path) == sha256:
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

    def _note_use(self, sha256: str) -> None:
        """Note a use of a copy for the other processes on this machine. The system unlocks the note when this process ends."""
        with self._notes() as folder:
            if self._note is None or self._note[0] != os.getpid():
                made = (folder / uuid4().hex).open("w")
                fcntl.flock(made, fcntl.LOCK_EX)
                weakref.finalize(self, made.close)
                self._note, self._used = (os.getpid(), made), {}
            self._used[sha256] = time.time_ns()
            file = self._note[1]
            file.seek(0)
            file.truncate()
            file.writelines(f"{name} {at}\n" for name, at in self._used.items())
            file.flush()

    @contextmanager
    def _notes(self) -> Iterator[Path]:
        """Lock and yield the folder of the notes that processes have made of the copies that they use."""
        folder = self._own_cache() / NOTES
        folder.mkdir(exist_ok=True)
        with (folder / LOCK).open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield folder

    def sign(self, name: str, *, seconds: int) -> str | None:
        """Have the client sign a URL; None if it cannot."""

        def sign(fs: Any, root: str) -> str | None:
            with suppress(NotImplementedError):
                return str(fs.sign(f"{root}/{name}", expiration=seconds))
            return None

        return self._call(f"no URL could be signed for {name}", sign)

    def delete(self, name: str) -> int:
        """Delete an object with all of its versions, and list the bucket again. Raises StorageError if any is left."""
        (self._own_cache() / PurePosixPath(name).stem).unlink(missing_ok=True)
        seen = 0  # by any try

        def delete(fs: Any, root: str) -> int:
            nonlocal seen
            path = f"{root}/{name}"

            def find() -> list[Version]:
                return [version for version in self.api.list_versions(fs, path) if version.path == path]

            left = find()
            seen = max(seen, len(left))
            refused: set[str] = set()
            for number in range(ROUNDS):
                # The first time also without versions: an earlier try may have left what can now be deleted for good.
                if left or number == 0:
                    refused |= self.api.delete_versions(fs, path, left)
                    left = find()
            if left:
                codes = f" ({', '.join(sorted(refused))})" if refused else ""
                raise StorageError(
                    f"{len(left)} of {seen} versions of {name} are still in {self.url} after they were deleted{codes}. "
                    f"{self.api.may_keep}"
                )
            return seen

        return self._call(f"{name} could not be deleted", delete)

    def delete_folder(self, folder: str) -> None:
        """Delete all objects under a folder, one after the other. Raises StorageError at the end if one could not be deleted."""
        delete_all(self.delete, [file.name for file in self.list_files(folder)])

    def list_files(self, folder: str = "") -> Iterator[StoredFile]:
        """List the objects under a folder, also those of which a deletion that did not end has left old versions.

        An object whose name ends with `/` is the mark by which some tools make a folder, and no file.
        """

        def find(fs: Any, root: str) -> list[StoredFile]:
            found: dict[str, datetime] = {}
            for version in self.api.list_versions(fs, f"{root}/{folder}/" if folder else f"{root}/"):
                if not version.path.endswith("/"):
                    found[version.path] = max(version.changed_at, found.get(version.path, version.changed_at))
            return [StoredFile(path.removeprefix(f"{root}/"), at) for path, at in sorted(found.items())]

        yield from self._call("its files could not be listed", find)

    def list_soft_deleted(self) -> Iterator[SoftDeleted]:
        """List the objects that soft delete keeps, without those of `check`."""
        yield from (found for found in self._find_soft_deleted() if not found.name.startswith(f"{CHECKS}/"))

    def _find_soft_deleted(self, beginning: str = "") -> list[SoftDeleted]:
        def find(fs: Any, root: str) -> list[SoftDeleted]:
            found: dict[str, datetime] = {}
            for path, until in self.api.list_soft_deleted(fs, f"{root}/{beginning}"):
                found[path] = max(until, found.get(path, until))
            return [SoftDeleted(path.removeprefix(f"{root}/"), until) for path, until in sorted(found.items())]

        return self._call("what soft delete keeps could not be listed", find)

    def delete_unfinished(self, *, older_than: timedelta) -> int:
        """Delete the parts of uploads that were broken off, which S3 keeps and nobody sees."""
        limit = datetime.now(UTC) - older_than
        return self._call(
            "unfinished uploads could not be deleted",
            lambda fs, root: self.api.delete_unfinished(fs, f"{root}/", limit=limit),
        )

    def delete_copies(self, read_needed: Callable[[], Collection[str]]) -> None:
        """Delete copies that are not needed any more, once they were not used for a while: one may be about to be read."""
        if self.cache.exists() and any(path.is_file() for path in self._own_cache().iterdir()):
            needed = frozenset(PurePosixPath(name).stem for name in read_needed())
            self._delete_copies(unused_for=NEEDLESS_AGE, keep=needed)
            self._delete_copies(unused_for=CACHE_AGE, keep=frozenset())

    def delete_own_copies(self) -> None:
        """Delete the copies of this process, and leave those that another one has used just now to that one."""
        if self._note is None or self._note[0] != os.getpid():
            return
        with self._notes() as folder:
            file, used = self._note[1], self._used.keys()
            self._note, self._used = None, {}
            Path(file.name).unlink(missing_ok=True)
            file.close()
            for name in used - _used_by_others(folder):
                (self.cache / name).unlink(missing_ok=True)

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
        """Write, read and delete an object, and find out whether soft delete keeps it."""
        name, sha256 = self.put(uuid4().bytes, CHECKS)
        path = self.fetch(name, sha256)
        if not path.exists():
            raise StorageUnreachable(f"{self.url} has lost {name} right after it was uploaded.")
        self.delete(name)
        done = "Written, read back and deleted with all versions"
        try:
            kept = self._find_soft_deleted(name)
        except StorageError as error:
            return f"{done}; whether soft delete keeps what is deleted is not known: {str(error).rstrip('.')}"
        if not kept:
            return done
        left = max(found.until for found in kept) - datetime.now(UTC)
        return (
            f"{done}; soft delete keeps what is deleted for up to {-(-left // timedelta(days=1))} days, "
            "and who has access to the bucket can restore it in that time"
        )

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
                if isinstance(error, FileNotFoundError) and not self._lacks_bucket(error):
                    raise
                if isinstance(error, StorageError) or (isinstance(error, OSError) and error.errno in DISK_FULL):
                    raise
                self._client = None
                if wait is None:
                    raise self._as_storage_error(failed, error) from error
                time.sleep(wait)
        raise AssertionError("the last try returns or raises")

    def _lacks_bucket(self, error: FileNotFoundError) -> bool:
        """Return whether an object is not there because its bucket is not.

        Google's client does not tell, so the bucket is listed. Who may read objects need not be allowed to list them.
        """
        if code_of(error) in NO_BUCKET:
            return True
        try:
            fs, root = self._connect()
            next(iter(self.api.list_versions(fs, f"{root}/{CHECKS}/")), None)
        except Exception as found:
            return isinstance(found, NoBucket) or code_of(found) in NO_BUCKET
        return False

    def _as_storage_error(self, failed: str, error: Exception) -> StorageError:
        """Say what happened and what to do. No message of the client is passed on but a code: it could quote a credential."""
        code, kind = code_of(error), type(error).__name__
        if code in NO_BUCKET or isinstance(error, NoBucket | FileNotFoundError):
            return StorageForbidden(f"{self.url}: {failed}: there is no such bucket.")
        if code in ("ExpiredToken", "ExpiredTokenException", "TokenRefreshRequired", "RequestTimeTooSkewed"):
            return StorageForbidden(f"{self.url}: {failed}: the credentials have expired ({code}). Renew them.")
        if is_refusal(error):
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

            try:
                given = {"skip_instance_cache": True, "use_listings_cache": False, **self.api.options()}
                fs, root = fsspec.url_to_fs(self.url, **given)
            except ImportError:
                raise StorageForbidden(
                    f"{self.url} needs {self.api.client}, which is not installed: "
                    f"pip install 'expunge[storage-{self.api.extra}]'."
                ) from None
            self._client = os.getpid(), fs, str(root).rstrip("/")
        return self._client[1:]


def _used_by_others(folder: Path) -> set[str]:
    """Read the digests of the copies that living processes have used just now. The notes of those that have ended are deleted."""
    recent = time.time_ns() - int(NEEDLESS_AGE.total_seconds() * 1e9)
    found = set[str]()
    for path in folder.iterdir():
        if path.name == LOCK:
            continue
        with path.open() as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                found |= {name for name, at in map(str.split, file) if int(at) >= recent}
            else:
                path.unlink()
    return found


def _limit(fs: Any, size: int) -> dict[str, float]:
    """Give an upload's limit of time to a client that takes one: those that run in a loop of their own do. size: in bytes."""
    return {"timeout": max(UPLOAD_SECONDS, size / SLOWEST)} if getattr(fs, "async_impl", False) else {}
