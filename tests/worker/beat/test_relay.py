import threading

import pytest
from kombu.exceptions import OperationalError

from tests.worker.conftest import Bench
from worker.beat import relay as courier


def test_what_is_due_is_sent_once(bench: Bench, training_ids: tuple[str, ...]) -> None:
    job_id = bench.submit(training_ids[:3])
    sent: list[object] = []
    assert courier.deliver_wakeups(bench.sessions, send=sent.append) == 1
    assert courier.deliver_wakeups(bench.sessions, send=sent.append) == 0
    assert sent == [job_id]


def test_a_broker_that_is_away_loses_nothing(
    bench: Bench, training_ids: tuple[str, ...], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    from datetime import timedelta

    monkeypatch.setattr("ledger.events.outbox.VISIBILITY_TIMEOUT", timedelta(0))
    job_id = bench.submit(training_ids[:3])

    def refuse(job_id: object) -> None:
        raise OperationalError("Connection refused")

    assert courier.deliver_wakeups(bench.sessions, send=refuse) == 0
    assert "1 wake-ups wait for the broker" in caplog.text
    sent: list[object] = []
    assert courier.deliver_wakeups(bench.sessions, send=sent.append) == 1
    assert sent == [job_id]


def test_a_round_that_fails_is_followed_by_the_next(caplog: pytest.LogCaptureFixture) -> None:
    stopped = threading.Event()
    made: list[int] = []

    def round_() -> None:
        made.append(1)
        if len(made) == 1:
            raise RuntimeError("person-17")
        stopped.set()

    courier.repeat(round_, stopped, 0)
    assert len(made) == 2
    assert "RuntimeError" in caplog.text
    assert "person-17" not in caplog.text
