"""The storage of weights, reference predictions and training checkpoints: a folder, or a bucket of an object storage.

A file is known by its name, with `/` between folders, and named by its SHA-256. It is there whole or not at all. What comes back is
checked against the digest before it is used.
"""

import errno
import os
import shutil
import tempfile
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path, PurePosixPath
from typing import Protocol, TypeVar
from urllib.parse import urlsplit

from sqlalchemy.orm import Session, sessionmaker

from ledger.registry.retention import needed_files
from unlearning.files import write_atomically, write_file

T = TypeVar("T")

Location = Path | str
"""Where a storage is: a folder, or the URL of a bucket and a prefix in it, as `s3://acme-expunge/production`."""

PROTOCOLS = ("s3", "gs", "gcs", "az", "abfs", "abfss")
"""The object storages: S3 and what speaks its API, Google Cloud Storage, Azure."""

DISK_FULL = (errno.ENOSPC, errno.EDQUOT)


class StorageError(OSError):
    """The storage does not do what it should. The message says what to do; another try may end better."""


class StorageUnreachable(StorageError):
    """No answer, or none that makes sense: a network, a server that is down, content that comes back altered."""


class StorageForbidden(StorageError):
    """The storage refuses: no permission, no credentials, or credentials that have expired."""


@dataclass(frozen=True, slots=True)
class StoredFile:
    """A file in the storage: its name, and when it was written."""

    name: str
    changed_at: datetime


@dataclass(frozen=True, slots=True)
class SoftDeleted:
    """A deleted file that the storage keeps for a while (soft delete): its name, and until when at the latest."""

    name: str
    until: datetime


class Storage(Protocol):
    """What holds the files. Every method raises StorageError, or another OSError such as a full disk."""

    @property
    def work_folder(self) -> Path:
        """A folder on this machine for what is not in the storage yet."""

    def put(self, content: bytes, folder: str = "") -> tuple[str, str]:
        """Write `<sha256>.safetensors` into a folder, and return its name and the digest."""

    def put_file(self, path: Path, sha256: str) -> str:
        """Write a copy of a file as `<sha256>.safetensors`, and return its name."""

    def fetch(self, name: str, sha256: str) -> Path:
        """Return the path of a file on this machine with the content.

        The caller reads it with a check of the digest, as `load_weights` and `read_file` do, which say so if it is missing or
        damaged. An object storage says so here: WeightsMissing, WeightsDamaged.
        """

    def sign(self, name: str, *, seconds: int) -> str | None:
        """Return a URL under which anybody can download the file so long; None if the storage cannot sign."""

    def delete(self, name: str) -> int:
        """Delete a file with all of its versions, verify that they are gone, and return how many there were."""

    def delete_folder(self, folder: str) -> None:
        """Delete all files under a folder, with all of their versions."""

    def list_files(self, folder: str = "") -> Iterator[StoredFile]:
        """List the files under a folder, at any depth, also those of which only old versions are left."""

    def list_soft_deleted(self) -> Iterator[SoftDeleted]:
        """List the deleted files that can still be restored. Nobody can delete them earlier."""

    def delete_unfinished(self, *, older_than: timedelta) -> int:
        """Delete what uploads that never ended have left, and return how many there were."""

    def delete_copies(self, read_needed: Callable[[], Collection[str]]) -> None:
        """Delete this machine's copies of files that are not among the needed ones. `read_needed` is called if there are copies."""

    def delete_own_copies(self) -> None:
        """Delete this process' copies, at its end, where nobody looks later. What another process uses too is left to that one."""

    def free_bytes(self) -> tuple[int, int] | None:
        """Return how many bytes are free and how many there are in all; None if that is not known."""

    def check(self) -> str:
        """Write, read and delete a file, and return a sentence about the storage."""


def delete_each(delete: Callable[[str], T], names: Iterable[str]) -> tuple[dict[str, T], list[OSError]]:
    """Delete files or folders, and go on after one that the storage does not let go, as under a hold.

    Returns what `delete` gave, by name, and the errors. Raises StorageUnreachable, StorageForbidden, which concern all.
    """
    deleted, errors = dict[str, T](), list[OSError]()
    for name in dict.fromkeys(names):
        try:
            deleted[name] = delete(name)
        except (StorageUnreachable, StorageForbidden):
            raise
        except OSError as error:
            errors.append(error)
    return deleted, errors


def delete_all(delete: Callable[[str], object], names: Iterable[str]) -> None:
    """Delete files or folders as `delete_each` does, and raise the first of its errors at the end."""
    _, errors = delete_each(delete, names)
    if errors:
        raise errors[0]


def delete_needless_copies(storage: Storage, sessions: sessionmaker[Session]) -> None:
    """Delete this machine's copies of files that the ledger does not need any more: they may know people who were erased.

    Each program that fetches files calls it from time to time.
    """

    def read_needed() -> set[str]:
        with sessions.begin() as session:
            return needed_files(session)

    storage.delete_copies(read_needed)


def parse_location(value: Location) -> Location:
    """Read a setting: an absolute or relative folder, or a URL. Raises ValueError."""
    if isinstance(value, Path) or "://" not in value:
        return Path(value)
    parts = urlsplit(value)
    if parts.scheme == "file" and not parts.netloc:
        return Path(parts.path)
    if parts.scheme not in PROTOCOLS or not parts.netloc or parts.query or parts.fragment:
        raise ValueError(f"must be a folder, or a URL such as s3://bucket/prefix with one of {', '.join(PROTOCOLS)}")
    if parts.password or (parts.username and parts.scheme == "s3"):
        raise ValueError("must hold no credentials; give them as the storage's own client reads them")
    return value.rstrip("/")


@dataclass(frozen=True, slots=True)
class LocalFolder:
    """A folder of this machine, or one that all workers mount."""

    folder: Path

    @property
    def work_folder(self) -> Path:
        """The folder itself."""
        return self.folder

    def put(self, content: bytes, folder: str = "") -> tuple[str, str]:
        """Write `<sha256>.safetensors` atomically."""
        path, sha256 = write_file(content, self.folder / folder)
        return str(PurePosixPath(folder) / path.name), sha256

    def put_file(self, path: Path, sha256: str) -> str:
        """Copy a file atomically."""
        name = f"{sha256}.safetensors"
        self.folder.mkdir(parents=True, exist_ok=True)
        with path.open("rb") as source:
            write_atomically(self.folder / name, lambda target: shutil.copyfileobj(source, target))
        return name

    def fetch(self, name: str, sha256: str) -> Path:
        """Return the file itself."""
        return self.folder / name

    def sign(self, name: str, *, seconds: int) -> str | None:
        """None: a folder has no URLs."""
        return None

    def delete(self, name: str) -> int:
        """Delete a file; a folder keeps no versions."""
        path = self.folder / name
        found = path.exists()
        path.unlink(missing_ok=True)
        return int(found)

    def delete_folder(self, folder: str) -> None:
        """Delete a folder, also what is in it beside a file that the system does not let go. Another process may delete it too."""
        delete_all(self.delete, [file.name for file in self.list_files(folder)])
        with suppress(FileNotFoundError):
            shutil.rmtree(self.folder / folder)

    def list_files(self, folder: str = "") -> Iterator[StoredFile]:
        """List the files under a folder, without those that other processes delete meanwhile."""
        found = os.walk(self.folder / folder, onerror=_raise_unless_gone)
        for path in sorted(Path(parent, name) for parent, _, names in found for name in names):
            with suppress(FileNotFoundError):
                changed_at = datetime.fromtimestamp(path.stat().st_mtime, UTC)
                yield StoredFile(path.relative_to(self.folder).as_posix(), changed_at)

    def list_soft_deleted(self) -> Iterator[SoftDeleted]:
        """Nothing: a deleted file is gone."""
        return iter(())

    def delete_unfinished(self, *, older_than: timedelta) -> int:
        """Nothing: a file that was being written is listed as `.writing-…`, and deleted as any other."""
        return 0

    def delete_copies(self, read_needed: Callable[[], Collection[str]]) -> None:
        """Nothing: the files are on this machine."""

    def delete_own_copies(self) -> None:
        """Nothing."""

    def free_bytes(self) -> tuple[int, int] | None:
        """Ask the file system."""
        self.folder.mkdir(parents=True, exist_ok=True)  # as `put` does: nothing may have been written yet
        room = shutil.disk_usage(self.folder)
        return room.free, room.total

    def check(self) -> str:
        """Write and delete a file."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=self.folder, prefix=".doctor-"):
            return "Writable"


def _raise_unless_gone(error: OSError) -> None:
    """Pass over a folder that has just been deleted, or that is another user's, as `lost+found` is."""
    if not isinstance(error, FileNotFoundError | PermissionError):
        raise error
