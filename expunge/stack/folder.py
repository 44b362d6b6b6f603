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


def default_folder() -> Path:
    """Choose `.expunge` if the current folder has one, else `~/.local/share/expunge`."""
    return HERE.absolute() if HERE.is_dir() else HOME.expanduser()


def chosen_folder() -> Path:
    """Return the data folder that `EXPUNGE_DATA` names, as `expunge up` prints it, else `default_folder()`."""
    named = os.environ.get("EXPUNGE_DATA")
    return Path(named).expanduser() if named else default_folder()


@contextmanager
def lock_folder(root: Path) -> Iterator[Folder]:
    """Create the data folder and lock it for this process. Raises FolderInUse or StackError.

    The kernel holds the lock, so a killed process does not leave it behind.
    """
    folder = Folder(root.expanduser().absolute())
    try:
        for path in (folder.root, folder.broker, folder.weights, folder.logs, folder.run):
            path.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise StackError(f"The data folder {folder.root} cannot be used: {error.strerror}.") from error
    with (folder.root / "lock").open("a+") as lock:
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
    """Read the settings of the stack that runs on this folder; None if none does."""
    folder = Folder(root.expanduser().absolute())
    try:
        if not is_locked(folder):  # A killed stack leaves its settings behind.
            return None
        return StackSettings(**json.loads(folder.settings.read_text()))
    except (FileNotFoundError, PermissionError):
        return None


def is_locked(folder: Folder) -> bool:
    """Return whether a stack runs on this folder."""
    with (folder.root / "lock").open() as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        return False
