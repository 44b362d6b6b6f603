"""The data folder: where everything that the embedded stack keeps lies, and who may use it."""

import fcntl
import json
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

from expunge.errors import FolderInUse, StackError

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
        """One log a process."""
        return self.root / "logs"

    @property
    def run(self) -> Path:
        """What only means something while the stack runs."""
        return self.root / "run"

    @property
    def sample_key(self) -> Path:
        """The key under which sample IDs are hashed. Losing it loses the link to every erased sample."""
        return self.root / "sample.key"

    @property
    def signing_keys(self) -> Path:
        """The private keys that sign statements; only the worker is told of them."""
        return self.root / "signing-keys"

    @property
    def settings(self) -> Path:
        """How to reach the stack that runs on this folder (it holds the broker's password: 0600)."""
        return self.run / "stack.json"


@dataclass(frozen=True, slots=True)
class Settings:
    """How the parts of a running stack are reached: what `DATABASE_URL` and the others are set to."""

    api_url: str
    database_url: str = field(repr=False)
    redis_url: str = field(repr=False)
    storage: str
    workloads: str


def default_folder() -> Path:
    """Choose `.expunge` in the current folder where there is one, else `~/.local/share/expunge`."""
    return HERE.absolute() if HERE.is_dir() else HOME.expanduser()


@contextmanager
def occupied(root: Path) -> Iterator[Folder]:
    """Make the data folder and hold it for this process alone.

    The lock is the kernel's, so that a killed process leaves none behind. Raises FolderInUse.
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
                f"Another stack (process {holder}) runs on {folder.root}. Stop it, or give another --data-dir."
            ) from None
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        try:
            yield folder
        finally:
            folder.settings.unlink(missing_ok=True)


def write_secret(path: Path, text: str) -> None:
    """Write a file that only its owner can read, whole or not at all."""
    new = path.with_suffix(".new")
    new.unlink(missing_ok=True)
    with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    new.rename(path)


def sample_key(folder: Folder) -> str:
    """Read the key under which sample IDs are hashed (32 bytes in hex), made on the first call."""
    if not folder.sample_key.exists():
        write_secret(folder.sample_key, secrets.token_hex(32))
    return folder.sample_key.read_text().strip()


def remember(folder: Folder, settings: Settings) -> None:
    """Leave the running stack's settings for the other commands."""
    write_secret(folder.settings, json.dumps(asdict(settings)))


def recall(root: Path) -> Settings | None:
    """Read the settings of the stack that runs on this folder; None when none does."""
    folder = Folder(root.expanduser().absolute())
    try:
        if not is_held(folder):  # A killed stack leaves its settings behind.
            return None
        return Settings(**json.loads(folder.settings.read_text()))
    except (FileNotFoundError, PermissionError):
        return None


def is_held(folder: Folder) -> bool:
    """Tell whether a stack runs on this folder."""
    with (folder.root / "lock").open() as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        return False
