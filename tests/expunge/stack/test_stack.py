import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy.orm import Session, sessionmaker

from expunge.errors import StackError
from expunge.stack import stack
from expunge.stack.folder import Folder, StackSettings
from expunge.stack.process import Child, Program, start, stop
from expunge.stack.stack import (
    MAX_RESTARTS,
    STOP_SIGNALS,
    Options,
    Restarts,
    Stack,
    alone,
    check_key,
    interruptible,
    options_from_environment,
    service_environment,
    stop_all,
    supervise,
)
from ledger.registry.access import ensure_tenant
from ledger.registry.datasets import register_dataset
from tests.expunge.stack.test_folder import SETTINGS

SET = {
    "DATABASE_URL": "postgresql://production",
    "REDIS_URL": "redis://production",
    "EXPUNGE_STORAGE": "s3://production/weights",
    "EXPUNGE_SAMPLE_KEY": "cd" * 32,
    "EXPUNGE_SIGNING_KEYS": "/keys",
    "EXPUNGE_WORKLOADS": "acme",
    "EXPUNGE_SWEEP_SECONDS": "7",
}


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for name, value in SET.items():
        monkeypatch.setenv(name, value)
    return monkeypatch


def test_the_stack_is_as_the_environment_says(tmp_path: Path, environment: pytest.MonkeyPatch) -> None:
    options = options_from_environment(data_dir=tmp_path, host="127.0.0.1")
    assert options == Options(
        data_dir=tmp_path,
        database_url=SET["DATABASE_URL"],
        redis_url=SET["REDIS_URL"],
        storage=SET["EXPUNGE_STORAGE"],
        sample_key=SET["EXPUNGE_SAMPLE_KEY"],
        signing_keys=Path("/keys"),
        workloads="acme",
        environment={"EXPUNGE_SWEEP_SECONDS": "7"},
    )
    environment.setenv("EXPUNGE_STORAGE", "weights")
    assert options_from_environment(data_dir=tmp_path, host="127.0.0.1").storage == Path.cwd() / "weights"


@pytest.mark.parametrize(("name", "wrong"), [("EXPUNGE_SAMPLE_KEY", "secret"), ("EXPUNGE_STORAGE", "ftp://secret/x")])
def test_a_malformed_setting_is_named_before_anything_starts(
    tmp_path: Path, environment: pytest.MonkeyPatch, name: str, wrong: str
) -> None:
    environment.setenv(name, wrong)
    with pytest.raises(StackError, match=name) as refused:
        options_from_environment(data_dir=tmp_path, host="127.0.0.1")
    assert "secret" not in str(refused.value)


def test_the_programs_have_the_keys_that_the_stack_was_given_or_its_own_and_the_signing_keys_the_worker_alone(
    folder: Folder, environment: pytest.MonkeyPatch
) -> None:
    given = service_environment(folder, replace(SETTINGS, sample_key="cd" * 32), {"EXPUNGE_SWEEP_SECONDS": "1"})
    assert (given["EXPUNGE_SAMPLE_KEY"], given["EXPUNGE_SWEEP_SECONDS"]) == ("cd" * 32, "1")
    assert given["EXPUNGE_SIGNING_KEYS"] == ""  # in place of what they would inherit
    assert not folder.sample_key.exists()
    own = service_environment(folder, SETTINGS, {})
    assert (own["EXPUNGE_SAMPLE_KEY"], own["EXPUNGE_SWEEP_SECONDS"]) == (folder.sample_key.read_text(), "5")


def test_a_sample_key_that_is_not_the_ledgers_is_refused(database_url: str, sessions: sessionmaker[Session]) -> None:
    check_key(database_url, "cd" * 32)  # of an empty ledger it becomes the key
    with sessions.begin() as session:
        register_dataset(session, tenant_id=ensure_tenant(session, "t"), name="d", digests=[bytes(32)])
    check_key(database_url, "cd" * 32)
    with pytest.raises(StackError, match="EXPUNGE_SAMPLE_KEY is not the key that the ledger is hashed under"):
        check_key(database_url, "ab" * 32)


def test_alone_nothing_is_left_of_a_deployment_here_and_in_processes_that_are_started(
    environment: pytest.MonkeyPatch,
) -> None:
    others = {"CELERY_BROKER_URL": "redis://x", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://x", "EXPUNGE_API_KEY": "x"}
    kept = {"EXPUNGE_DEVICE": "cpu", "HOME_OF_A_TEST": "x"}
    for name, value in {**others, **kept}.items():
        environment.setenv(name, value)
    before = dict(os.environ)
    with alone():
        assert {*SET, *others}.isdisjoint(os.environ)
        assert kept.items() <= os.environ.items()
        program = "import os; print(*os.environ)"
        seen = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True).stdout.split()
        assert {*SET, *others}.isdisjoint(seen)
    assert os.environ == before


@pytest.mark.parametrize("number", STOP_SIGNALS)
def test_a_signal_unwinds_the_stack_and_a_second_one_does_not_end_the_unwinding(number: signal.Signals) -> None:
    unwound = []

    @contextmanager
    def part() -> Iterator[None]:
        try:
            yield
        finally:
            for again in STOP_SIGNALS:
                signal.raise_signal(again)
            unwound.append(True)

    with pytest.raises(KeyboardInterrupt), interruptible(), part():
        signal.raise_signal(number)
    assert unwound


@pytest.mark.parametrize("number", STOP_SIGNALS)
def test_a_signal_that_comes_while_everything_is_stopped_leaves_nothing_running(
    number: signal.Signals, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = Program(name="the program", command=(), log=tmp_path / "log", ready=lambda: True)
    children = [Child(program, subprocess.Popen([sys.executable, "-c", ""])) for _ in range(2)]
    stopped = []

    def interrupted(child: Child) -> None:
        signal.raise_signal(number)
        child.process.wait()
        stopped.append(child)

    monkeypatch.setattr(stack, "stop", interrupted)
    expected = children[::-1]
    with interruptible():
        stop_all(children)
    assert stopped == expected


def test_a_part_has_its_own_budget_of_restarts_within_a_window() -> None:
    restarts = Restarts(["PostgreSQL", "the worker"])
    for second in range(MAX_RESTARTS):
        restarts.count("PostgreSQL", at=second)
        restarts.count("the worker", at=second)
    assert not restarts.exhausted("PostgreSQL")
    restarts.count("the worker", at=MAX_RESTARTS)
    assert (restarts.exhausted("PostgreSQL"), restarts.exhausted("the worker")) == (False, True)
    assert "PostgreSQL ended 5 times, the worker ended 6 times" in restarts.describe()
    for day in range(1, 30):
        restarts.count("the worker", at=day * 86400.0)
        assert not restarts.exhausted("the worker")
    assert "PostgreSQL" not in restarts.describe()


@pytest.fixture
def ending(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, int], Child]:
    """`ending(name, times)`: a part that is started, and ends that many times before it stays."""
    monkeypatch.setattr(stack, "CHECK_INTERVAL", 0.01)

    def make(name: str, times: int) -> Child:
        starts = tmp_path / f"{name}.starts"
        code = (
            f"import sys, time; starts = open({str(starts)!r}, 'a+'); starts.write('x'); starts.flush(); starts.seek(0); "
            f"time.sleep(600) if len(starts.read()) > {times} else sys.exit(3)"
        )
        program = Program(
            name=name, command=(sys.executable, "-c", code), log=tmp_path / f"{name}.log", ready=starts.exists
        )
        return start(program)

    return make


def supervised(tmp_path: Path, children: list[Child], *, until: int) -> list[str]:
    """What the supervisor reports, until there were that many restarts and it is interrupted."""
    settings = StackSettings(api_url="", database_url="", redis_url="", storage="", workloads="")
    reported: list[str] = []

    def note(text: str) -> None:
        reported.append(text)
        if sum("is started again" in line for line in reported) >= until:
            raise KeyboardInterrupt

    try:
        with pytest.raises(KeyboardInterrupt):
            supervise(Stack(Folder(tmp_path), settings, None, children), on_restart=note)
    finally:
        for child in children:
            stop(child)
    return reported


def test_restarts_of_different_parts_do_not_add_up(tmp_path: Path, ending: Callable[[str, int], Child]) -> None:
    children = [ending("first", 4), ending("second", 4)]
    reported = supervised(tmp_path, children, until=8)
    assert {name: sum(line.startswith(name) for line in reported) for name in ("first", "second")} == {
        "first": 4,
        "second": 4,
    }


def test_the_part_that_keeps_ending_is_named(tmp_path: Path, ending: Callable[[str, int], Child]) -> None:
    children = [ending("the broker", 2), ending("the beat", 99)]
    with pytest.raises(StackError, match=r"the beat ended 6 times.* Last status: 3"):
        supervised(tmp_path, children, until=99)
