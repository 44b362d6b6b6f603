"""Files that are named by their SHA-256, written whole or not at all. It needs no torch."""

import hashlib
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import IO

from unlearning.errors import WeightsDamaged, WeightsMissing


def write_file(content: bytes, folder: Path) -> tuple[Path, str]:
    """Write `<sha256>.safetensors` into `folder`; return the path and the digest. See `write_atomically`."""
    folder.mkdir(parents=True, exist_ok=True)
    digest = content_sha256(content)
    path = folder / f"{digest}.safetensors"
    write_atomically(path, content)
    return path, digest


def write_atomically(path: Path, content: bytes | Callable[[IO[bytes]], object]) -> None:
    """Write a file whose folder exists, so that a crash leaves the old file or the whole new one.

    content: the bytes, or what writes them. The file appears by a rename after its content has reached the disk. Raises OSError
    (e.g. ENOSPC) and then leaves no new file.
    """
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".writing-", suffix=path.suffix)
    try:
        with os.fdopen(handle, "wb") as file:
            if isinstance(content, bytes):
                file.write(content)
            else:
                content(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)


def read_file(path: Path, sha256: str) -> bytes:
    """Read a file that is named by its digest. Raises WeightsMissing if there is none, WeightsDamaged if its digest differs."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise WeightsMissing(f"There is no file {path.name} in {path.parent}; restore it from the backup.") from None
    found = content_sha256(content)
    if found != sha256:
        raise WeightsDamaged(
            f"{path.name} has SHA-256 {found}; the ledger recorded {sha256}. Restore it from the backup."
        )
    return content


def content_sha256(content: bytes) -> str:
    """Compute the SHA-256 of a content, as hex."""
    return hashlib.sha256(content).hexdigest()


def file_sha256(path: Path) -> str:
    """Compute the SHA-256 of a file's content, as hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
