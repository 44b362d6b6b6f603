"""Wake-ups from the service to the workers, sent by task name, without importing them.

A wake-up is never the truth: the row in the ledger is. What a call wrote into the outbox is sent as soon as it is committed. What
cannot be sent then stays in the outbox for the beat. So a broker that does not answer is logged and counted, and costs the caller
nothing.
"""

import logging
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from functools import partial
from typing import TypeVar
from uuid import UUID

import redis
from celery import Celery
from fastapi.concurrency import run_in_threadpool
from kombu.exceptions import OperationalError as BrokerAway
from prometheus_client import CollectorRegistry, Counter
from sqlalchemy.orm import Session

from ledger.db import DATABASE_AWAY
from ledger.events.outbox import RUN_JOB, delete_sent_wakeups, take_wakeups
from service.http.sessions import Database

T = TypeVar("T")

logger = logging.getLogger(__name__)

BROKER_TIMEOUT = 0.4
"""Seconds to wait for the broker, once to connect and once for each response."""


@dataclass(frozen=True, slots=True)
class Broker:
    """The broker's URL, a producer that connects at its first message, and a count of wake-ups by outcome."""

    url: str
    producer: Celery
    wakeups: Counter


def make_broker(url: str, *, registry: CollectorRegistry) -> Broker:
    """Make the broker at a redis:// URL, without a connection yet."""
    producer = Celery("expunge.service", broker=url, set_as_current=False)
    timeouts = {"socket_connect_timeout": BROKER_TIMEOUT, "socket_timeout": BROKER_TIMEOUT, "max_retries": 0}
    producer.conf.update(
        broker_transport_options=timeouts, broker_connection_timeout=BROKER_TIMEOUT, task_ignore_result=True
    )
    wakeups = Counter("expunge_wakeups", "Wake-ups sent to the workers", ["outcome"], registry=registry)
    for outcome in ("sent", "lost"):
        wakeups.labels(outcome)
    return Broker(url, producer, wakeups)


async def wake(broker: Broker, database: Database, job_ids: Collection[UUID]) -> None:
    """Send the wake-ups of these jobs from the outbox. Call it after the commit; it never raises if a server is away."""
    if not job_ids:
        return
    try:
        taken = await _transact(database, partial(take_wakeups, job_ids=job_ids))
        sent = await run_in_threadpool(send, broker, [wakeup.job_id for wakeup in taken])
        done = [wakeup for wakeup in taken if wakeup.job_id in sent]
        await _transact(database, partial(delete_sent_wakeups, sent=done))
    except DATABASE_AWAY as error:
        logger.warning("wake-ups are left to the beat: the database is away: %s", type(error).__name__)


async def _transact(database: Database, act: Callable[[Session], T]) -> T:
    """Run `act` in a transaction of its own, behind the same limiter as every call."""

    def transaction() -> T:
        with database.sessions.begin() as session:
            return act(session)

    async with database.limiter:
        return await run_in_threadpool(transaction)


def send(broker: Broker, job_ids: Iterable[UUID]) -> set[UUID]:
    """Send a wake-up for each job until the broker fails; return the jobs whose message it has. Never raises if it is away."""
    sent: set[UUID] = set()
    for job_id in job_ids:
        try:
            # One retry: a connection from before a restart of the broker fails at its first use.
            policy = {"max_retries": 1, "interval_start": 0, "interval_step": 0}
            broker.producer.send_task(RUN_JOB, args=[str(job_id)], retry=True, retry_policy=policy)
        except BrokerAway as error:
            logger.warning("the wake-up of job %s is left to the beat: the broker is away: %s", job_id, error)
            broker.wakeups.labels("lost").inc()
            return sent
        broker.wakeups.labels("sent").inc()
        sent.add(job_id)
    return sent


def ping(broker: Broker) -> None:
    """Check that the broker answers. Raises redis.RedisError if it does not answer in time."""
    with redis.Redis.from_url(
        broker.url, socket_connect_timeout=BROKER_TIMEOUT, socket_timeout=BROKER_TIMEOUT, retry=None
    ) as client:
        client.ping()
