import os
import signal
import socket
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import psutil
import psycopg
import pytest

from expunge.errors import StartFailed
from expunge.stack import postgres as postgres_module
from expunge.stack.broker import free_port
from expunge.stack.folder import Folder, lock_folder
from expunge.stack.postgres import make_short_folder, postgres
from expunge.stack.process import Child, await_ready, start, stop
from ledger.db import SERVERS_NETWORK_LIMITS, make_engine
from tests.fixtures.servers import drop_all
from tests.fixtures.waiting import await_that


@contextmanager
def postgresql(folder: Folder, *, listen: str = "") -> Iterator[tuple[Child, str]]:
    with postgres(folder) as (program, url):
        command = [part.replace("listen_addresses=", f"listen_addresses={listen}") for part in program.command]
        child = start(replace(program, command=tuple(command)))
        await_ready(child)
        try:
            yield child, url.replace("+psycopg", "")
        finally:
            stop(child)


def test_the_database_finds_its_data_again_even_after_it_was_killed(folder: Folder) -> None:
    with postgresql(folder) as (child, url):
        with psycopg.connect(url) as connection:
            connection.execute("CREATE TABLE kept AS SELECT 42 AS answer")
        os.kill(child.process.pid, signal.SIGKILL)
        child.process.wait()
        assert (folder.postgres / "postmaster.pid").exists()
    with postgresql(folder) as (_, url), psycopg.connect(url) as connection:
        assert connection.execute("SELECT answer FROM kept").fetchone() == (42,)


def test_a_pid_file_whose_process_is_another_program_is_cleared(folder: Folder) -> None:
    with postgresql(folder):
        pass
    (folder.postgres / "postmaster.pid").write_text(f"{os.getpid()}\n{folder.postgres}\n")
    with postgresql(folder) as (_, url), psycopg.connect(url) as connection:
        assert connection.execute("SELECT 1").fetchone() == (1,)


def test_a_pid_file_whose_process_is_another_users_is_cleared(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    """On macOS nobody may ask for the command line of another user's process."""
    folder.postgres.mkdir()
    pid_file = folder.postgres / "postmaster.pid"
    pid_file.write_text(f"{os.getpid()}\n{folder.postgres}\n")

    def deny(self: psutil.Process) -> list[str]:
        raise psutil.AccessDenied(self.pid)

    monkeypatch.setattr(psutil.Process, "cmdline", deny)
    postgres_module.stop_orphan(folder)
    assert not pid_file.exists()


def test_the_database_listens_on_no_port_and_its_socket_is_its_owners(folder: Folder) -> None:
    with postgresql(folder) as (_, url):
        with psycopg.connect(url) as connection:
            assert connection.execute("SHOW listen_addresses").fetchone() == ("",)
        socket = Path(parse_qs(urlsplit(url).query)["host"][0])
        assert socket.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("deep_temporary_folder", [False, True])
def test_a_data_folder_too_deep_for_a_socket_gets_one_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, deep_temporary_folder: bool
) -> None:
    deep = tmp_path / ("deep" * 25)
    if deep_temporary_folder:
        (tmp_path / ("temp" * 25)).mkdir()
        monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / ("temp" * 25)))  # as TMPDIR sets it
    with lock_folder(deep) as folder, postgresql(folder) as (_, url), psycopg.connect(url) as connection:
        assert connection.execute("SELECT 1").fetchone() == (1,)


def test_without_any_short_folder_the_error_says_what_to_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(postgres_module, "MAX_SOCKET_FOLDER_BYTES", 10)
    with pytest.raises(StartFailed, match="TMPDIR"):
        make_short_folder()


def test_a_data_folder_may_have_any_name() -> None:
    """In a short folder, so that the socket would fit into it."""
    with (
        tempfile.TemporaryDirectory(dir="/tmp") as short,
        lock_folder(Path(short) / 'a "b", 50 % & c#d') as folder,
        postgresql(folder) as (_, url),
        psycopg.connect(url) as connection,
    ):
        assert connection.execute("SELECT 1").fetchone() == (1,)


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux lets the end of a connection vanish")
@pytest.mark.parametrize("hurried", [True, False])
def test_a_session_ends_once_its_clients_machine_has_vanished_without_a_packet(
    folder: Folder, monkeypatch: pytest.MonkeyPatch, hurried: bool
) -> None:
    """With its locks, and its place among the server's connections. TCP's own default is two hours."""
    if hurried:
        limits = {"idle": "1", "interval": "1", "count": "2"}
        monkeypatch.setattr(
            "ledger.db.SERVERS_NETWORK_LIMITS",
            SERVERS_NETWORK_LIMITS | {f"tcp_keepalives_{name}": value for name, value in limits.items()},
        )
    monkeypatch.setenv("PGPORT", str(port := free_port()))
    with postgresql(folder, listen="127.0.0.1") as (_, near), psycopg.connect(near, autocommit=True) as observer:
        far = make_engine(f"postgresql://expunge@127.0.0.1:{port}/expunge", statement_seconds=7200)
        with far.connect() as connection:
            session = connection.connection.driver_connection
            pid = connection.exec_driver_sql("SELECT pg_backend_pid()").scalar_one()
            connection.exec_driver_sql("SELECT pg_advisory_lock(14)")
            with socket.socket(fileno=os.dup(session.fileno())) as its_socket:
                drop_all(its_socket)

            def there() -> object:
                query = "SELECT 1 FROM pg_stat_activity WHERE pid = %s"
                return observer.execute(query, (pid,)).fetchone()

            assert there()
            await_that(lambda: not there(), "the server to end the session")
            assert observer.execute("SELECT pg_try_advisory_lock(14)").fetchone() == (True,)
            connection.invalidate()
        far.dispose()
