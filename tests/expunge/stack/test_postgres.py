import os
import signal
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import psycopg
import pytest

from expunge.errors import StartFailed
from expunge.stack import postgres as postgres_module
from expunge.stack.folder import Folder, lock_folder
from expunge.stack.postgres import make_short_folder, postgres
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


def test_a_data_folder_may_have_any_name(tmp_path: Path) -> None:
    with (
        lock_folder(tmp_path / 'a "b", 50 % & c#d') as folder,
        postgresql(folder) as (_, url),
        psycopg.connect(url) as connection,
    ):
        assert connection.execute("SELECT 1").fetchone() == (1,)
