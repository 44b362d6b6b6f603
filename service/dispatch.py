"""Sends wake-ups to the workers, by task name, without importing them.

A message is a wake-up and never the truth: the row in the ledger is, and the sweep wakes what a lost message missed. So a broker
that does not answer is logged and counted, and costs the caller nothing.
"""

import logging
from collections.abc import Iterable
from dataclasses import dataclass
from uuid import UUID

import redis
from celery import Celery
from kombu.exceptions import OperationalError
from prometheus_client import CollectorRegistry, Counter

from ledger.wakeups import RUN_JOB

logger = logging.getLogger(__name__)

TIMEOUT = 0.4
"""Seconds to wait for the broker, once to connect and once for each answer."""


@dataclass(frozen=True, slots=True)
class Broker:
    """The way to the workers: where it is, a producer that connects at its first message, and a count of what became of each."""

    url: str
    producer: Celery
    wakeups: Counter


def make_broker(url: str, *, registry: CollectorRegistry) -> Broker:
    """A broker at a redis:// URL; nothing is connected yet."""
    producer = Celery("expunge.service", broker=url, set_as_current=False)
    producer.conf.update(
        broker_transport_options={"socket_connect_timeout": TIMEOUT, "socket_timeout": TIMEOUT, "max_retries": 0},
        broker_connection_timeout=TIMEOUT,
        task_ignore_result=True,
    )
    wakeups = Counter("expunge_wakeups", "Wake-ups sent to the workers", ["outcome"], registry=registry)
    for outcome in ("sent", "lost"):
        wakeups.labels(outcome)
    return Broker(url, producer, wakeups)


def wake(broker: Broker, job_ids: Iterable[UUID]) -> None:
    """Tell the workers that these jobs may be ready. Call it after the commit; it never raises for a broker that is down."""
    for job_id in job_ids:
        try:
            # One more try, because a connection kept from before a restart of the broker fails at its first use.
            policy = {"max_retries": 1, "interval_start": 0, "interval_step": 0}
            broker.producer.send_task(RUN_JOB, args=[str(job_id)], retry=True, retry_policy=policy)
        except OperationalError as error:
            logger.warning("wake-up of job %s was lost, the sweep will wake it: %s", job_id, error)
            broker.wakeups.labels("lost").inc()
            return
        broker.wakeups.labels("sent").inc()


def ping(broker: Broker) -> None:
    """Ask the broker whether it is there; raises redis.RedisError where it does not answer in time."""
    with redis.Redis.from_url(broker.url, socket_connect_timeout=TIMEOUT, socket_timeout=TIMEOUT, retry=None) as client:
        client.ping()
