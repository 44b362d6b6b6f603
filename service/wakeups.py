"""Sends wake-ups to the workers, by task name, without importing them.

A message is a wake-up and never the truth: the row in the ledger is. What a call has announced in the outbox is sent as soon as it
is committed; what can not be sent then stays in the outbox, for the beat. So a broker that does not answer is logged and counted,
and costs the caller nothing.
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
from kombu.exceptions import OperationalError
from prometheus_client import CollectorRegistry, Counter
from sqlalchemy.exc import OperationalError as DatabaseAway
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.orm import Session

from ledger.events.outbox import RUN_JOB, delete_sent_wakeups, take_wakeups
from service.http.sessions import Database

T = TypeVar("T")

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


async def wake(broker: Broker, database: Database, job_ids: Collection[UUID]) -> None:
    """Send at once what the outbox has for these jobs. Call it after the commit; it never raises for a server that is away."""
    if not job_ids:
        return
    try:
        taken = await _transacted(database, partial(take_wakeups, job_ids=job_ids))
        sent = await run_in_threadpool(send, broker, [wakeup.job_id for wakeup in taken])
        done = [wakeup for wakeup in taken if wakeup.job_id in sent]
        await _transacted(database, partial(delete_sent_wakeups, sent=done))
    except (DatabaseAway, PoolTimeout) as error:
        logger.warning("wake-ups are left to the beat, the database is away: %s", type(error).__name__)


async def _transacted(database: Database, act: Callable[[Session], T]) -> T:
    """Do something in a transaction of its own, behind the same turnstile as every call."""

    def transaction() -> T:
        with database.sessions.begin() as session:
            return act(session)

    async with database.turnstile:
        return await run_in_threadpool(transaction)


def send(broker: Broker, job_ids: Iterable[UUID]) -> set[UUID]:
    """Tell the workers that these jobs may be ready; gives those of which the broker has the message. Never raises for a broker."""
    sent: set[UUID] = set()
    for job_id in job_ids:
        try:
            # One more try, because a connection kept from before a restart of the broker fails at its first use.
            policy = {"max_retries": 1, "interval_start": 0, "interval_step": 0}
            broker.producer.send_task(RUN_JOB, args=[str(job_id)], retry=True, retry_policy=policy)
        except OperationalError as error:
            logger.warning("the wake-up of job %s was not sent, the beat will send it: %s", job_id, error)
            broker.wakeups.labels("lost").inc()
            return sent
        broker.wakeups.labels("sent").inc()
        sent.add(job_id)
    return sent


def ping(broker: Broker) -> None:
    """Ask the broker whether it is there; raises redis.RedisError where it does not answer in time."""
    with redis.Redis.from_url(broker.url, socket_connect_timeout=TIMEOUT, socket_timeout=TIMEOUT, retry=None) as client:
        client.ping()
