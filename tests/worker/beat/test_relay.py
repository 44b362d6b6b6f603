import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from urllib.parse import urlsplit
from uuid import UUID

import pytest
import redis
from celery import Celery
from kombu.exceptions import OperationalError
from sqlalchemy import text
from sqlalchemy.exc import OperationalError as DatabaseAway

from ledger.db import NETWORK_LIMITS, make_engine, make_sessions
from ledger.events.webhooks import add_webhook, take_batch
from ledger.states import JobState
from tests.fixtures.postgresql import HURRIED, at_a_distance
from tests.fixtures.servers import Relay, relayed
from tests.fixtures.waiting import PATIENCE, await_that
from tests.service.conftest import redis_server
from tests.worker.conftest import Bench
from worker import app
from worker.beat import relay, webhooks

JOB = UUID(int=7)


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
    bench.claim(job_id, worker="dead", lease=timedelta(0))
    sent: list[object] = []
    relay.sweep_jobs(bench.sessions, bench.settings, send=sent.append)
    assert sent == [job_id]
    assert bench.job(job_id).state is JobState.QUEUED


def test_messages_that_wait_too_long_are_sent(bench: Bench, training_ids: tuple[str, ...]) -> None:
    """As after the database's clock has stepped back."""
    with bench.sessions.begin() as session:
        add_webhook(session, tenant_id=bench.tenant_id, url="https://example.org/", key=bytes(32))
    bench.submit(training_ids[:3])
    with bench.sessions.begin() as session:
        session.execute(text("UPDATE webhook_deliveries SET next_try_at = next_try_at + interval '1 day'"))
        assert take_batch(session) is None
    webhooks.cut_long_waits(bench.sessions)
    with bench.sessions.begin() as session:
        assert take_batch(session) is not None


def test_a_beat_whose_databases_machine_vanishes_goes_on_once_it_is_back(
    bench: Bench, training_ids: tuple[str, ...], database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in HURRIED.items():
        monkeypatch.setitem(NETWORK_LIMITS, name, value)
    sent: list[object] = []
    with at_a_distance(database_url) as (machine, url):
        engine = make_engine(url, statement_seconds=7200)
        far = make_sessions(engine)
        assert relay.relay_wakeups(far, send=sent.append) == 0  # the pool is warm
        job_id = bench.submit(training_ids[:3])
        machine.vanish()
        with pytest.raises(DatabaseAway):
            relay.relay_wakeups(far, send=sent.append)
        machine.come_back()
        assert relay.relay_wakeups(far, send=sent.append) == 1
        engine.dispose()
    assert sent == [job_id]


@contextmanager
def broker_at_a_distance(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Relay, Celery, "redis.Redis"]]:
    """A broker, the machine on the way to it, a worker's application with seconds in place of half minutes, and a near client."""
    monkeypatch.setattr(
        app, "TCP_LIMITS", {"TCP_KEEPIDLE": 1, "TCP_KEEPINTVL": 1, "TCP_KEEPCNT": 2, "TCP_USER_TIMEOUT": 2000}
    )
    monkeypatch.setattr(app, "BROKER_CONNECT_SECONDS", 1)
    with redis_server() as url, redis.Redis.from_url(url) as near:
        address = ("127.0.0.1", urlsplit(url).port or 0)
        with relayed(lambda: socket.create_connection(address)) as machine:
            celery = Celery(broker=f"redis://127.0.0.1:{machine.port}/0", set_as_current=False)
            celery.conf.update(broker_transport_options=app.broker_options(), task_ignore_result=True)
            yield machine, celery, near
            celery.close()


def test_a_wake_up_to_a_broker_whose_machine_has_vanished_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a limit the beat's thread would wait for a quarter of an hour, and all other wake-ups with it."""
    with broker_at_a_distance(monkeypatch) as (machine, celery, near):
        send = relay.wakeup_sender(celery)
        send(JOB)
        machine.vanish()
        with pytest.raises(OperationalError):
            send(JOB)
        machine.come_back()
        send(JOB)
        assert near.llen("celery") == 2


def test_a_worker_that_waits_for_messages_notices_that_the_brokers_machine_has_vanished(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with broker_at_a_distance(monkeypatch) as (machine, celery, near), celery.connection_for_read() as connection:
        monkeypatch.setattr(connection.transport, "polling_interval", None)  # it blocks until a message comes
        queue = connection.SimpleQueue("celery")
        waits = threading.Thread(
            target=lambda: (await_that(lambda: near.info()["blocked_clients"], "the worker to wait"), machine.vanish())
        )
        waits.start()
        with pytest.raises(connection.connection_errors):
            queue.get(timeout=2 * PATIENCE)
        waits.join()
