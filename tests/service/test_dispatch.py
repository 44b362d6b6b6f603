import socket
import time
from uuid import UUID, uuid4

import pytest
import redis
from prometheus_client import CollectorRegistry

from service import dispatch
from tests.service.conftest import NOWHERE

JOBS = [UUID(int=1), UUID(int=2)]


def broker_at(url: str) -> tuple[dispatch.Broker, CollectorRegistry]:
    registry = CollectorRegistry()
    return dispatch.make_broker(url, registry=registry), registry


def counted(registry: CollectorRegistry, outcome: str) -> float | None:
    return registry.get_sample_value("expunge_wakeups_total", {"outcome": outcome})


def test_a_wakeup_carries_the_jobs_id_under_the_workers_task_name(broker_url: str) -> None:
    broker, registry = broker_at(broker_url)
    with redis.Redis.from_url(broker_url) as queue:
        queue.flushall()
        dispatch.wake(broker, JOBS)

        messages = [message.decode() for message in queue.lrange("celery", 0, -1)]
    assert len(messages) == 2
    assert all('"task": "expunge.run_job"' in message for message in messages)
    assert (counted(registry, "sent"), counted(registry, "lost")) == (2, 0)


def test_a_broker_that_is_away_costs_nothing_but_a_count(caplog: pytest.LogCaptureFixture) -> None:
    broker, registry = broker_at(NOWHERE)
    began = time.monotonic()

    dispatch.wake(broker, JOBS)

    assert time.monotonic() - began < 1
    assert counted(registry, "lost") == 1
    assert "the sweep will wake it" in caplog.text


def test_a_broker_that_never_answers_is_not_waited_for() -> None:
    with socket.create_server(("127.0.0.1", 0)) as mute:
        broker, registry = broker_at(f"redis://127.0.0.1:{mute.getsockname()[1]}/0")
        began = time.monotonic()

        dispatch.wake(broker, [uuid4()])

        assert time.monotonic() - began < 2.5 * dispatch.TIMEOUT + 0.5  # two tries
    assert counted(registry, "lost") == 1


def test_the_first_wakeup_after_the_broker_dropped_the_connection_arrives(broker_url: str) -> None:
    broker, registry = broker_at(broker_url)
    with redis.Redis.from_url(broker_url) as queue:
        dispatch.wake(broker, JOBS[:1])
        queue.flushall()
        queue.client_kill_filter(_type="normal", skipme=True)

        dispatch.wake(broker, JOBS[1:])

        assert queue.llen("celery") == 1
    assert counted(registry, "sent") == 2


def test_a_ping_tells_a_broker_from_none(broker_url: str) -> None:
    dispatch.ping(broker_at(broker_url)[0])
    with pytest.raises(redis.RedisError):
        dispatch.ping(broker_at(NOWHERE)[0])
