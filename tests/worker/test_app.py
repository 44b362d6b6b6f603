import os
import subprocess
import sys
from collections.abc import Callable

import pytest
from pydantic import ValidationError

from ledger.jobs.workers import worker_last_seen
from tests.fixtures.waiting import PATIENCE
from tests.worker.conftest import Bench
from worker import app
from worker.settings import Settings, read_settings

ENVIRONMENT = {
    "DATABASE_URL": "postgresql://nobody@127.0.0.1:1/nothing",
    "REDIS_URL": "redis://127.0.0.1:1/0",
    "EXPUNGE_SAMPLE_KEY": "00" * 32,
    "EXPUNGE_STORAGE": "/nonexistent",
}


def python(program: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )


def test_the_application_needs_no_torch_and_before_it_is_used_no_setting_and_names_tasks_as_the_ledger_does() -> None:
    """Messages are acknowledged early and taken one at a time."""
    program = (
        "import os, sys; sys.modules.update(torch=None, torchvision=None)\n"
        "given = {name: os.environ.pop(name) for name in list(os.environ) if name.startswith('EXPUNGE_') or '_URL' in name}\n"
        "import worker.tasks; from worker.app import celery_app as app; from ledger.events.outbox import RUN_JOB\n"
        "os.environ.update(given); c = app.conf; assert RUN_JOB in app.tasks, list(app.tasks)\n"
        "print(c.broker_url, c.task_acks_late, c.worker_prefetch_multiplier, c.task_ignore_result, c.worker_concurrency)"
    )
    result = python(program, **ENVIRONMENT)
    assert result.stdout.split() == ["redis://127.0.0.1:1/0", "False", "1", "True", "1"], result.stderr


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    return monkeypatch


@pytest.mark.parametrize("name", ["DATABASE_URL", "EXPUNGE_STORAGE"])
def test_a_missing_setting_is_named(environment: pytest.MonkeyPatch, name: str) -> None:
    environment.delenv(name)
    with pytest.raises(ValidationError, match=name):
        read_settings()


def test_a_malformed_setting_stops_the_start_in_one_line() -> None:
    faulty = {**ENVIRONMENT, "EXPUNGE_SWEEP_SECONDS": "soon"}
    result = python("from worker.app import celery_app; print(celery_app.conf.broker_url)", **faulty)
    assert result.returncode == 1
    assert result.stderr.startswith("EXPUNGE_SWEEP_SECONDS: ")
    assert "soon" not in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_by_default_a_dead_workers_job_goes_on_within_two_minutes_and_has_lost_less_than_one() -> None:
    defaults = {name: field.default for name, field in Settings.model_fields.items()}
    assert defaults["lease_seconds"] + defaults["sweep_seconds"] < 110
    assert defaults["checkpoint_seconds"] < 60


def test_a_wrong_sample_key_is_refused_without_being_shown(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("EXPUNGE_SAMPLE_KEY", "abcdef")
    with pytest.raises(ValidationError, match="must be 64 hex digits") as stopped:
        read_settings()
    assert "abcdef" not in str(stopped.value)


def test_a_worker_is_seen_and_cleans_up_even_if_it_cannot_sign_the_log(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In its parent process, whatever its child does: a busy or hanging one holds up nothing of it."""
    done: list[str] = []

    def fails(*_: object) -> None:
        raise PermissionError

    def note(name: str) -> Callable[..., None]:
        def called(*_: object) -> None:
            done.append(name)

        return called

    monkeypatch.setattr(app, "sign_log", fails)
    for name in ("delete_finished_checkpoints", "record_storage_room"):
        monkeypatch.setattr(app, name, note(name))
    app.keep_house(bench.sessions, bench.settings)
    assert done == ["delete_finished_checkpoints", "record_storage_room"]
    with bench.sessions() as session:
        assert worker_last_seen(session) is not None
    app.keep_house(bench.sessions, bench.settings)
    assert len(done) == 2  # another worker has just done it
