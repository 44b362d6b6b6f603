import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import psycopg

from expunge.stack.folder import Folder, lock_folder
from expunge.stack.postgres import postgres
from expunge.stack.process import Child, await_ready, start, stop


@contextmanager
def postgresql(folder: Folder) -> Iterator[tuple[Child, str]]:
    with postgres(folder) as (program, url):
        child = start(program)
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


def test_the_database_listens_on_no_port_and_its_socket_is_its_owners(folder: Folder) -> None:
    with postgresql(folder) as (_, url):
        with psycopg.connect(url) as connection:
            assert connection.execute("SHOW listen_addresses").fetchone() == ("",)
        socket = Path(parse_qs(urlsplit(url).query)["host"][0])
        assert socket.stat().st_mode & 0o777 == 0o700


def test_a_data_folder_too_deep_for_a_socket_gets_one_elsewhere(tmp_path: Path) -> None:
    deep = tmp_path / ("deep" * 25)
    with lock_folder(deep) as folder, postgresql(folder) as (_, url), psycopg.connect(url) as connection:
        assert connection.execute("SELECT 1").fetchone() == (1,)
