import os
import subprocess
import sys
from collections.abc import Callable

import pytest

from ledger.jobs.heartbeats import worker_last_seen
from tests.worker.conftest import Bench
from worker import app
from worker.settings import Settings

ENVIRONMENT = {
    "DATABASE_URL": "postgresql://nobody@127.0.0.1:1/nothing",
    "REDIS_URL": "redis://127.0.0.1:1/0",
    "EXPUNGE_SAMPLE_KEY": "00" * 32,
    "EXPUNGE_STORAGE": "/nonexistent",
}


def python(program: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-c", program], env={**os.environ, **environment}, capture_output=True, text=True, timeout=60
    )


def test_the_worker_and_its_tasks_can_be_imported_where_torch_can_not() -> None:
    blocked = "import sys; sys.modules.update(torch=None, torchvision=None)\nimport worker.app, worker.tasks"
    assert python(blocked).returncode == 0


def test_importing_the_application_reads_no_setting_and_connects_to_nothing() -> None:
    result = python("import worker.app, worker.tasks")
    assert result.returncode == 0, result.stderr


def test_the_configuration_acknowledges_early_and_takes_one_message_at_a_time() -> None:
    program = (
        "from worker.app import celery_app as app; c = app.conf\n"
        "print(c.broker_url, c.task_acks_late, c.worker_prefetch_multiplier, c.task_ignore_result, c.worker_concurrency)"
    )
    result = python(program, **ENVIRONMENT)
    assert result.stdout.split() == ["redis://127.0.0.1:1/0", "False", "1", "True", "1"], result.stderr


def test_the_task_goes_by_the_name_that_the_ledger_agrees_on() -> None:
    program = (
        "import worker.tasks; from worker.app import celery_app as app; from ledger.events.outbox import RUN_JOB\n"
        "assert RUN_JOB in app.tasks, list(app.tasks)"
    )
    result = python(program, **ENVIRONMENT)
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("name", ["DATABASE_URL", "EXPUNGE_STORAGE"])
def test_a_missing_setting_is_named(name: str) -> None:
    rest = {key: value for key, value in ENVIRONMENT.items() if key != name}
    result = python("from worker.settings import read_settings; read_settings()", **rest)
    assert result.returncode == 1
    assert name in result.stderr


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


def test_a_wrong_sample_key_is_refused_without_being_shown() -> None:
    result = python(
        "from worker.settings import read_settings; read_settings()", **{**ENVIRONMENT, "EXPUNGE_SAMPLE_KEY": "abcdef"}
    )
    assert "must be 64 hex digits" in result.stderr
    assert "abcdef" not in result.stderr


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
