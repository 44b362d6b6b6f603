"""Sends what the outbox holds, from a thread of the beat: the workers may be busy for hours, the beat never is."""

import logging
import threading
from collections.abc import Callable
from functools import partial
from typing import Any
from uuid import UUID

from celery import Celery
from kombu.exceptions import OperationalError as BrokerAway
from sqlalchemy.orm import Session, sessionmaker

from ledger.db import make_engine, make_sessions
from ledger.events.deliveries import delete_expired_deliveries
from ledger.events.outbox import RUN_JOB, delete_sent_wakeups, take_wakeups
from ledger.requests.deadlines import mark_overdue
from ledger.requests.uploads import delete_expired_uploads
from worker.beat import webhooks
from worker.settings import read_settings

logger = logging.getLogger(__name__)

INTERVAL = 1.0
"""Seconds between two looks."""


COURIERS = 4
"""Threads that deliver webhooks: so many endpoints may hang at once before the others wait."""

CLOCK_INTERVAL = 30.0
"""Seconds between two looks for requests that have become overdue."""

TIDY_INTERVAL = 3600.0
"""Seconds between two looks for what is kept no longer."""

Round = Callable[[], object]


def start(sender: Any, **_: object) -> None:
    """Start the courier's threads with the beat, and let them end with it."""
    settings = read_settings()
    sessions = make_sessions(make_engine(settings.database_url.get_secret_value(), pool_size=COURIERS + 3))
    wake = partial(deliver_wakeups, sessions, send=sender_of(sender.app))
    send = webhooks.sender(key=settings.sample_key_bytes, allowed=settings.reachable)
    tell = partial(webhooks.deliver_webhooks, sessions, send=send)
    stopped = threading.Event()
    rounds = [
        (wake, INTERVAL),
        *[(tell, INTERVAL)] * COURIERS,
        (partial(look_at_the_clock, sessions), CLOCK_INTERVAL),
        (partial(tidy, sessions), TIDY_INTERVAL),
    ]
    for round_, interval in rounds:
        threading.Thread(target=repeat, args=(round_, stopped, interval), daemon=True).start()


def sender_of(app: Celery) -> Callable[[UUID], None]:
    """The way to the workers; it raises BrokerAway where there is none."""
    return lambda job_id: app.send_task(RUN_JOB, args=[str(job_id)], retry=False)


def repeat(round_: Round, stopped: threading.Event, interval: float) -> None:
    """Make a round for ever. Whatever goes wrong is logged, without what it was about, and tried again in the next."""
    while not stopped.wait(interval):
        try:
            round_()
        except Exception as error:
            logger.warning("the outbox waits for the next round: %s", type(error).__name__)


def deliver_wakeups(sessions: sessionmaker[Session], *, send: Callable[[UUID], None]) -> int:
    """Send the wake-ups that are due, and tell how many the broker has taken. What it has not stays for a later round."""
    with sessions.begin() as session:
        taken = take_wakeups(session)
    sent = []
    try:
        for wakeup in taken:
            send(wakeup.job_id)
            sent.append(wakeup)
    except BrokerAway as error:
        logger.warning("%d wake-ups wait for the broker: %s", len(taken) - len(sent), type(error).__name__)
    if sent:
        with sessions.begin() as session:
            delete_sent_wakeups(session, sent)
    return len(sent)


def look_at_the_clock(sessions: sessionmaker[Session]) -> None:
    """Note the requests that have become overdue, until there is none."""
    noted = 1
    while noted:
        with sessions.begin() as session:
            noted = mark_overdue(session)


def tidy(sessions: sessionmaker[Session]) -> None:
    """Delete what is kept no longer: uploaded manifests, and the log of deliveries that have ended. Each by itself."""
    for forget in (delete_expired_uploads, delete_expired_deliveries):
        with sessions.begin() as session:
            forget(session)
