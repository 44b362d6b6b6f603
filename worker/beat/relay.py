"""The beat's threads: the outbox relay, the sweep, webhooks, hand-overs, overdue requests and cleanup.

Workers may be busy for hours; the beat never is.
"""

import logging
import threading
from collections.abc import Callable, Collection
from functools import partial
from typing import Any
from uuid import UUID

from celery import Celery
from kombu.exceptions import OperationalError as BrokerAway
from sqlalchemy.orm import Session, sessionmaker

from connectors.configuration import read_connectors
from connectors.opendsr import read_opendsr
from connectors.storage import delete_needless_copies
from connectors.transcend import read_transcend
from ledger.db import make_engine, make_sessions
from ledger.events.hand_overs import retire_hand_overs
from ledger.events.outbox import RUN_JOB, delete_sent_wakeups, take_wakeups
from ledger.jobs.claims import sweep
from ledger.requests.deadlines import mark_overdue
from worker.beat import hand_overs, webhooks
from worker.beat.transcend import report_results
from worker.cleanup import delete_expired_rows
from worker.settings import Settings, read_settings

logger = logging.getLogger(__name__)

RELAY_INTERVAL = 1.0
"""Seconds between two polls of the outbox, and of the webhook messages."""

HAND_OVER_INTERVAL = 2.0
"""Seconds between two checks of what is due at a connected system."""

STATUS_INTERVAL = 5.0
"""Seconds between two checks for requests whose managers have a new status to hear of."""

RESULT_INTERVAL = 60.0
"""Seconds between two checks for requests whose results Transcend is to get."""

OVERDUE_INTERVAL = 30.0
"""Seconds between two checks for requests that have become overdue, and for hand-overs to systems that are no longer connected."""

CLEANUP_INTERVAL = 3600.0
"""Seconds between two cleanups."""

WEBHOOK_THREADS = 4
"""Threads that deliver webhooks: so many endpoints may hang at once before others have to wait."""


def start(sender: Any, **_: object) -> None:
    """Start the threads with the beat; they end with it. Raises SystemExit if a file in which the operator declares is wrong."""
    settings = read_settings()
    try:
        connected = read_connectors(settings.connectors)
        opendsr = None if settings.opendsr is None else read_opendsr(settings.opendsr)
        transcend = None if settings.transcend is None else read_transcend(settings.transcend)
    except ValueError as error:
        raise SystemExit(str(error)) from None
    url, limit = settings.database_url.get_secret_value(), settings.statement_seconds
    sessions = make_sessions(make_engine(url, pool_size=WEBHOOK_THREADS + len(connected) + 6, statement_seconds=limit))
    key = settings.sample_key_bytes
    send = partial(webhooks.send_once, key=key, allowed=settings.reachable, opendsr=opendsr)
    wake = wakeup_sender(sender.app)
    deliver = partial(webhooks.deliver_webhooks, sessions, send=send)
    hand_over = partial(
        hand_overs.deliver_hand_overs, sessions, find_weights=partial(hand_overs.find_weights, settings.files)
    )
    send_results = partial(report_results, sessions, key=key, refusals={})
    stopped = threading.Event()
    for action, interval in [
        (partial(relay_wakeups, sessions, send=wake), RELAY_INTERVAL),
        *[(deliver, RELAY_INTERVAL)] * WEBHOOK_THREADS,
        *[(partial(hand_over, connector), HAND_OVER_INTERVAL) for connector in connected],
        (partial(retire, sessions, keep=[connector.name for connector in connected]), OVERDUE_INTERVAL),
        *([] if opendsr is None else [(partial(webhooks.report_statuses, sessions, opendsr), STATUS_INTERVAL)]),
        *([] if transcend is None else [(partial(send_results, transcend), RESULT_INTERVAL)]),
        (partial(sweep_jobs, sessions, settings, send=wake), settings.sweep_seconds),
        (partial(webhooks.cut_long_waits, sessions), settings.sweep_seconds),
        (partial(mark_overdue_requests, sessions), OVERDUE_INTERVAL),
        (partial(delete_needless_copies, settings.files, sessions), settings.sweep_seconds),
        (partial(delete_expired_rows, sessions), CLEANUP_INTERVAL),
    ]:
        threading.Thread(target=repeat, args=(action, stopped, interval), daemon=True).start()


def repeat(action: Callable[[], object], stopped: threading.Event, interval: float) -> None:
    """Run an action at an interval until stopped. An error is logged by its type alone, and the next run tries again."""
    while not stopped.wait(interval):
        try:
            action()
        except Exception as error:
            logger.warning("a background thread tries again in %g s: %s", interval, type(error).__name__)


def wakeup_sender(app: Celery, *, retry: bool = False) -> Callable[[UUID], None]:
    """Make what sends a wake-up to the workers; it raises BrokerAway if the broker does not answer. retry: within a second."""
    return lambda job_id: app.send_task(RUN_JOB, args=[str(job_id)], retry=retry)


def relay_wakeups(sessions: sessionmaker[Session], *, send: Callable[[UUID], None]) -> int:
    """Send the wake-ups that are due, and return how many the broker has taken. The others stay in the outbox."""
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


def sweep_jobs(
    sessions: sessionmaker[Session], settings: Settings, *, send: Callable[[UUID], object], at_most: int | None = None
) -> None:
    """Requeue jobs with expired leases, and wake the jobs that are due. It is an independent fallback for lost wake-ups.

    at_most: how many are woken; None for all.
    """
    with sessions.begin() as session:
        found = sweep(session, rule=settings.retry_rule, max_lease=2 * settings.lease)
    for job_id in found.wake[:at_most]:
        send(job_id)


def retire(sessions: sessionmaker[Session], *, keep: Collection[str]) -> None:
    """Give up what is owed to systems that are no longer in the file of connectors."""
    with sessions.begin() as session:
        retire_hand_overs(session, keep=keep)


def mark_overdue_requests(sessions: sessionmaker[Session]) -> None:
    """Mark the requests that have become overdue, a batch in each transaction."""
    marked = 1
    while marked:
        with sessions.begin() as session:
            marked = mark_overdue(session)
