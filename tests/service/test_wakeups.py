import socket
from uuid import UUID, uuid4

import httpx
import pytest
import redis
from prometheus_client import CollectorRegistry
from sqlalchemy import text
from sqlalchemy.orm import Session, sessionmaker

from service import wakeups
from tests.fixtures.waiting import await_that
from tests.service.conftest import NOWHERE, Serve, Site

JOBS = [UUID(int=1), UUID(int=2)]


def broker_at(url: str) -> tuple[wakeups.Broker, CollectorRegistry]:
    registry = CollectorRegistry()
    return wakeups.make_broker(url, registry=registry), registry


def counted(registry: CollectorRegistry, outcome: str) -> float | None:
    return registry.get_sample_value("expunge_wakeups_total", {"outcome": outcome})


def test_a_wakeup_carries_the_jobs_id_under_the_workers_task_name(broker_url: str) -> None:
    broker, registry = broker_at(broker_url)
    with redis.Redis.from_url(broker_url) as queue:
        queue.flushall()
        assert wakeups.send(broker, JOBS) == set(JOBS)

        messages = [message.decode() for message in queue.lrange("celery", 0, -1)]
    assert len(messages) == 2
    assert all('"task": "expunge.run_job"' in message for message in messages)
    assert (counted(registry, "sent"), counted(registry, "lost")) == (2, 0)


def test_a_broker_that_is_away_costs_nothing_but_a_count(caplog: pytest.LogCaptureFixture) -> None:
    broker, registry = broker_at(NOWHERE)

    assert wakeups.send(broker, JOBS) == set()

    assert (counted(registry, "sent"), counted(registry, "lost")) == (0, 1)
    assert [record.levelname for record in caplog.records if record.name == "service.wakeups"] == ["WARNING"]


def test_a_broker_that_never_answers_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without its time-out the call would never return."""
    monkeypatch.setattr(wakeups, "BROKER_TIMEOUT", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as mute:
        broker, registry = broker_at(f"redis://127.0.0.1:{mute.getsockname()[1]}/0")

        assert wakeups.send(broker, [uuid4()]) == set()  # without a timeout it would wait for ever
    assert counted(registry, "lost") == 1


def test_the_first_wakeup_after_the_broker_dropped_the_connection_arrives(broker_url: str) -> None:
    broker, registry = broker_at(broker_url)
    with redis.Redis.from_url(broker_url) as queue:
        wakeups.send(broker, JOBS[:1])
        queue.flushall()
        queue.client_kill_filter(_type="normal", skipme=True)

        wakeups.send(broker, JOBS[1:])

        assert queue.llen("celery") == 1
    assert counted(registry, "sent") == 2


def test_a_ping_tells_a_broker_from_none(broker_url: str) -> None:
    wakeups.ping(broker_at(broker_url)[0])
    with pytest.raises(redis.RedisError):
        wakeups.ping(broker_at(NOWHERE)[0])


def submit(client: httpx.Client) -> None:
    body = {"dataset": "scans", "sample_ids": ["sample-1"]}
    assert client.post("/unlearn-requests", json=body).status_code == 202


def entries(sessions: sessionmaker[Session]) -> int | None:
    with sessions() as session:
        return session.scalar(text("SELECT count(*) FROM outbox"))


def test_a_request_wakes_the_worker_at_once_and_leaves_nothing_in_the_outbox(
    serve: Serve, site: Site, sessions: sessionmaker[Session], broker_url: str
) -> None:
    with redis.Redis.from_url(broker_url) as queue:
        queue.flushall()
        submit(serve(key=site.writer, broker=broker_url, batch_window_seconds=0))
        await_that(lambda: queue.llen("celery") == 1, "the message")
    await_that(lambda: entries(sessions) == 0, "the outbox to be empty")


def test_without_a_broker_the_wakeup_stays_in_the_outbox(
    serve: Serve, site: Site, sessions: sessionmaker[Session], caplog: pytest.LogCaptureFixture
) -> None:
    submit(serve(key=site.writer, batch_window_seconds=0))
    await_that(lambda: "service.wakeups" in {record.name for record in caplog.records}, "the log line")
    assert entries(sessions) == 1
