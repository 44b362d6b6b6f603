from pathlib import Path

import pytest
from sqlalchemy.orm import Session, sessionmaker

from worker import tasks
from worker.settings import read_settings


def test_a_sweep_wakes_what_is_due_even_if_it_can_neither_sign_the_log_nor_clean_up(
    sessions: sessionmaker[Session], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    woken: list[int | None] = []

    def fails(*_: object) -> None:
        raise PermissionError

    for name in ("DATABASE_URL", "REDIS_URL"):
        monkeypatch.setenv(name, "nowhere")
    monkeypatch.setenv("EXPUNGE_SAMPLE_KEY", "00" * 32)
    monkeypatch.setenv("EXPUNGE_STORAGE", str(tmp_path))
    monkeypatch.setattr(tasks, "settings", read_settings)
    monkeypatch.setattr(tasks, "sessions", lambda: sessions)
    monkeypatch.setattr(tasks, "wake_ready", lambda *, at_most: woken.append(at_most))
    for name in ("delete_finished_checkpoints", "sign_log"):
        monkeypatch.setattr(tasks, name, fails)
    with pytest.raises(PermissionError):
        tasks.sweep_jobs()
    assert woken == [None]
