"""The data folder of the embedded stack: its paths, its lock, its secrets and settings."""

import fcntl
import json
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

from expunge.errors import FolderInUse, StackError
from unlearning.files import write_atomically

HERE = Path(".expunge")
HOME = Path("~/.local/share/expunge")


@dataclass(frozen=True, slots=True)
class Folder:
    """The paths below one data folder."""

    root: Path

    @property
    def postgres(self) -> Path:
        """PostgreSQL's cluster."""
        return self.root / "postgres"

    @property
    def broker(self) -> Path:
        """The Redis-protocol server's append-only files."""
        return self.root / "broker"

    @property
    def weights(self) -> Path:
        """Every model version's weights, named by their SHA-256."""
        return self.root / "weights"

    @property
    def logs(self) -> Path:
        """A log file for each process."""
        return self.root / "logs"

    @property
    def run(self) -> Path:
        """Files that are valid only while the stack runs."""
        return self.root / "run"

    @property
    def sample_key(self) -> Path:
        """The key for hashing sample IDs. Without it no request can be matched with a sample."""
        return self.root / "sample.key"

    @property
    def signing_keys(self) -> Path:
        """The private keys that sign statements. Only the worker gets this path."""
        return self.root / "signing-keys"

    @property
    def settings(self) -> Path:
        """The settings of the running stack. It holds the broker's password, so its mode is 0600."""
        return self.run / "stack.json"


@dataclass(frozen=True, slots=True)
class StackSettings:
    """The addresses of a running stack's parts, and its other settings."""

    api_url: str
    database_url: str = field(repr=False)
    redis_url: str = field(repr=False)
    storage: str
    workloads: str
    signing_keys: str | None = None
    """The folder of private signing keys. None: that of a stack of an older release, in the data folder."""
    sample_key: str | None = field(default=None, repr=False)
    """The key for sample IDs that the environment gave the stack. None: it has the data folder's own."""


def default_folder() -> Path:
    """Choose `.expunge` if the current folder has one, else `~/.local/share/expunge`. Raises StackError."""
    return HERE.absolute() if HERE.is_dir() else _expand(HOME)


def chosen_folder() -> Path:
    """Return the data folder that `EXPUNGE_DATA` names, as `expunge up` prints it, else `default_folder()`."""
    named = os.environ.get("EXPUNGE_DATA")
    return _expand(Path(named)) if named else default_folder()


def _expand(path: Path) -> Path:
    try:
        return path.expanduser()
    except RuntimeError as error:
        raise StackError(
            f"The data folder {path} is of nobody known here ({error}). Name another with --data-dir."
        ) from None


@contextmanager
def lock_folder(root: Path) -> Iterator[Folder]:
    """Create the data folder and lock it for this process. Raises FolderInUse or StackError.

    The kernel holds the lock, so a killed process does not leave it behind.
    """
    folder = Folder(_expand(root).absolute())
    try:
        for path in (folder.root, folder.broker, folder.weights, folder.logs, folder.run):
            path.mkdir(parents=True, exist_ok=True, mode=0o700)
        opened = (folder.root / "lock").open("a+")
    except OSError as error:
        raise StackError(f"The data folder {folder.root} cannot be used: {error.strerror}.") from error
    with opened as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            holder = lock.read().strip() or "unknown"
            raise FolderInUse(
                f"Another stack (process {holder}) runs on {folder.root}. Stop it, or name another --data-dir."
            ) from None
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        try:
            yield folder
        finally:
            folder.settings.unlink(missing_ok=True)


def write_secret(path: Path, text: str) -> None:
    """Write a file atomically, readable by its owner only."""
    write_atomically(path, text.encode())  # by a temporary file, which its owner alone can read


def sample_key(folder: Folder) -> str:
    """Read the key for hashing sample IDs (32 bytes in hex); create it on the first call."""
    if not folder.sample_key.exists():
        write_secret(folder.sample_key, secrets.token_hex(32))
    return folder.sample_key.read_text().strip()


def has_newer_key(folder: Folder) -> bool:
    """Return whether the sample key was replaced since the running stack was started, whose processes do not have it yet."""
    return folder.sample_key.stat().st_mtime_ns > folder.settings.stat().st_mtime_ns


def write_stack_settings(folder: Folder, settings: StackSettings) -> None:
    """Write the running stack's settings for other commands to read."""
    write_secret(folder.settings, json.dumps(asdict(settings)))


def read_stack_settings(root: Path) -> StackSettings | None:
    """Read the settings of the stack that runs on this folder; None if none does. Raises StackError."""
    folder = Folder(_expand(root).absolute())
    try:
        if not is_locked(folder):  # A killed stack leaves its settings behind.
            return None
        return StackSettings(**json.loads(folder.settings.read_text()))
    except (FileNotFoundError, PermissionError):
        return None
    except NotADirectoryError:
        raise StackError(
            f"The data folder {folder.root} is a file. Name a folder with --data-dir or EXPUNGE_DATA."
        ) from None
    except (TypeError, ValueError):
        raise StackError(
            f"A stack of another release runs on {folder.root}, or {folder.settings} is damaged. Start the stack again."
        ) from None


def read_sample_key(root: Path, running: StackSettings) -> str | None:
    """Read the sample key of the stack that runs on this folder: the one that it was given, else the folder's."""
    kept = Folder(_expand(root).absolute()).sample_key
    return running.sample_key or (kept.read_text().strip() if kept.exists() else None)


def is_locked(folder: Folder) -> bool:
    """Return whether a stack runs on this folder."""
    with (folder.root / "lock").open() as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        return False
