import threading
from datetime import timedelta

import pytest
from kombu.exceptions import OperationalError

from ledger.jobs.claims import claim
from ledger.states import JobState
from tests.worker.conftest import Bench
from worker.beat import relay


def test_what_is_due_is_sent_once(bench: Bench, training_ids: tuple[str, ...]) -> None:
    job_id = bench.submit(training_ids[:3])
    sent: list[object] = []
    assert relay.relay_wakeups(bench.sessions, send=sent.append) == 1
    assert relay.relay_wakeups(bench.sessions, send=sent.append) == 0
    assert sent == [job_id]


def test_a_broker_that_is_away_loses_nothing(
    bench: Bench, training_ids: tuple[str, ...], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ledger.events.outbox.VISIBILITY_TIMEOUT", timedelta(0))
    job_id = bench.submit(training_ids[:3])

    def refuse(job_id: object) -> None:
        raise OperationalError("Connection refused")

    assert relay.relay_wakeups(bench.sessions, send=refuse) == 0
    assert [record.levelname for record in caplog.records if record.name == "worker.beat.relay"] == ["WARNING"]
    sent: list[object] = []
    assert relay.relay_wakeups(bench.sessions, send=sent.append) == 1
    assert sent == [job_id]


def test_an_action_that_fails_is_repeated_and_logged_without_its_message(caplog: pytest.LogCaptureFixture) -> None:
    stopped = threading.Event()
    runs: list[int] = []

    def act() -> None:
        runs.append(1)
        if len(runs) == 1:
            raise RuntimeError("person-17")
        stopped.set()

    relay.repeat(act, stopped, 0)
    assert len(runs) == 2
    assert "RuntimeError" in caplog.text
    assert "person-17" not in caplog.text


def test_a_sweep_takes_back_expired_leases_and_wakes_what_is_due(bench: Bench, training_ids: tuple[str, ...]) -> None:
    """In the beat, because every worker may be busy for hours."""
    job_id = bench.submit(training_ids[:3])
    with bench.sessions.begin() as session:
        assert claim(session, job_id, worker="dead", lease=timedelta(0)) is not None
    sent: list[object] = []
    relay.sweep_jobs(bench.sessions, bench.settings, send=sent.append)
    assert sent == [job_id]
    assert bench.job(job_id).state is JobState.QUEUED
