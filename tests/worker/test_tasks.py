import pytest

from tests.worker.conftest import Bench
from worker import tasks


def test_a_sweep_wakes_what_is_due_though_it_can_neither_sign_the_log_nor_tidy_up(
    bench: Bench, training_ids: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    job_id, sent = bench.submit(training_ids[:10]), []

    def fails(*_: object) -> None:
        raise PermissionError

    monkeypatch.setattr(tasks, "settings", lambda: bench.settings)
    monkeypatch.setattr(tasks, "sessions", lambda: bench.sessions)
    monkeypatch.setattr(tasks.celery_app, "send_task", lambda name, args: sent.append(args))
    for name in ("tidy", "sign_log"):
        monkeypatch.setattr(tasks, name, fails)
    with pytest.raises(PermissionError):
        tasks.sweep_jobs()
    assert sent == [[str(job_id)]]
