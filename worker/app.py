"""The Celery application: start with `celery -A worker.app worker --pool prefork --concurrency 1`, and `… beat`.

A message is a wake-up: it carries a job's ID and is acknowledged at once. Losing or doubling it does no harm, because the job's row
and its lease decide. (A broker that redelivers unacknowledged messages would run a long job twice.)

The worker's parent process has threads for what must not wait for a child that is busy for hours, or hangs: they watch the progress
of the children, show that the worker is there, sign the log, and clean up. The parent alone has both the signing keys and the
storage; the beat, which can reach other networks, has neither.
"""

import importlib
import logging
import socket
import threading
import time
from datetime import timedelta
from functools import partial
from typing import Any
from uuid import UUID

from celery import Celery
from celery.signals import (
    after_setup_logger,
    beat_init,
    worker_init,
    worker_process_init,
    worker_process_shutdown,
    worker_ready,
    worker_shutting_down,
)
from pydantic import ValidationError
from sqlalchemy.orm import Session, sessionmaker

from connectors.declaration import faults
from connectors.storage import delete_needless_copies
from ledger.db import make_engine, make_sessions
from ledger.jobs import workers
from ledger.jobs.workers import CHECK_MODEL, REPEATED_AFTER
from telemetry import logs, tracing
from worker.beat import relay
from worker.checks import CHECK_INTERVAL, send_next_check
from worker.child import prepare_child, stop_children
from worker.cleanup import (
    delete_expired_sheets,
    delete_finished_checkpoints,
    delete_outdated_files,
    record_storage_room,
)
from worker.settings import Settings, read_settings
from worker.signing import sign_log
from worker.watchdog import POLL_INTERVAL, create_board, make_watchdog

logger = logging.getLogger(__name__)


BROKER_CONNECT_SECONDS = 5
"""Seconds to wait for a new connection to the broker."""

TCP_LIMITS = {"TCP_KEEPIDLE": 30, "TCP_KEEPINTVL": 10, "TCP_KEEPCNT": 3, "TCP_USER_TIMEOUT": 30_000}
"""How a connection to the broker whose other end has vanished is noticed within a minute, as those to PostgreSQL are: options of
its socket by their names, in seconds, the last in milliseconds. A system that lacks one of them does without it."""


def broker_options() -> dict[str, Any]:
    """Give the options of Celery's connections to the broker, of the workers and of the beat."""
    known = {getattr(socket, name): value for name, value in TCP_LIMITS.items() if hasattr(socket, name)}
    return {
        "socket_connect_timeout": BROKER_CONNECT_SECONDS,
        "socket_keepalive": True,
        "socket_keepalive_options": known,
    }


def configuration() -> dict[str, Any]:
    """Read the settings when Celery first needs them, not when this module is imported.

    Raises SystemExit, in a line that names each fault, if one is missing or malformed.
    """
    try:
        settings = read_settings()
    except ValidationError as error:
        raise SystemExit(faults(error)) from None
    return {
        "broker_url": settings.redis_url.get_secret_value(),
        "broker_connection_retry_on_startup": True,
        "broker_transport_options": broker_options(),
        "task_ignore_result": True,
        "task_acks_late": False,
        "task_serializer": "json",
        "accept_content": ["json"],
        "worker_prefetch_multiplier": 1,
        "worker_concurrency": 1,
        "worker_send_task_events": False,
        "enable_utc": True,
    }


celery_app = Celery("expunge", include=["worker.tasks"])
celery_app.add_defaults(configuration)


def create_ready_file(**_: object) -> None:
    """Create the ready file, for the process that waits for this one."""
    ready_file = read_settings().ready_file
    if ready_file is not None:
        ready_file.touch()


def configure_logs(logger: logging.Logger, **_: object) -> None:
    """Format Celery's handlers, and drop its three lines for each wake-up; jobs have lines of their own."""
    logs.format_handlers(logger.handlers, read_settings().log)
    for name in ("celery.worker.strategy", "celery.worker.request", "celery.app.trace", "celery.beat"):
        logging.getLogger(name).setLevel(logging.WARNING)


def start_tracing(**_: object) -> None:
    """Send spans from this process: a worker's child or the beat."""
    tracing.start("expunge-worker")


def finish_tracing(**_: object) -> None:
    """Send the last spans before the child ends."""
    tracing.finish()


def start_threads(**_: object) -> None:
    """Start the threads once the children are forked; they end with the process."""
    settings = read_settings()
    # The children never use these connections: psycopg closes a connection only in the process that opened it.
    url, limit = settings.database_url.get_secret_value(), settings.statement_seconds
    sessions = make_sessions(make_engine(url, pool_size=2, statement_seconds=limit))
    stopped = threading.Event()
    for action, interval in [
        (make_watchdog(sessions, settings).poll, POLL_INTERVAL),
        (partial(keep_house, sessions, settings), settings.sweep_seconds),
        (partial(send_next_check, sessions, send=send_check, started=time.monotonic()), CHECK_INTERVAL),
        (partial(delete_needless_copies, settings.files, sessions), settings.sweep_seconds),
    ]:
        threading.Thread(target=relay.repeat, args=(action, stopped, interval), daemon=True).start()


def send_check(model_id: UUID) -> None:
    """Send the message that has a child check a model."""
    celery_app.send_task(CHECK_MODEL, args=[str(model_id)], retry=False, expires=REPEATED_AFTER.total_seconds())


def keep_house(sessions: sessionmaker[Session], settings: Settings) -> None:
    """Record that a worker is there, sign the log if it has grown, and clean up, unless another worker has just done so.

    One that fails does not keep the others from being done.
    """
    with sessions.begin() as session:
        if workers.was_seen_within(session, workers.WORKER, timedelta(seconds=settings.sweep_seconds / 2)):
            return
        workers.record_heartbeat(session, workers.WORKER)
    for action in (
        partial(sign_log, sessions, settings),
        partial(delete_finished_checkpoints, settings.files, sessions),
        partial(delete_outdated_files, settings.files, sessions),
        partial(delete_expired_sheets, settings.files, older_than=timedelta(days=settings.sheet_days)),
        partial(record_storage_room, settings.files, sessions),
    ):
        try:
            action()
        except Exception as error:
            logger.warning("%s failed and is tried again: %s", action.func.__name__, type(error).__name__)


def import_ahead(**_: object) -> None:
    """Import what a child's first job needs (torch: seconds) while the child waits for it."""
    threading.Thread(target=importlib.import_module, args=("worker.run",), daemon=True).start()


after_setup_logger.connect(configure_logs)
worker_init.connect(create_board)
worker_ready.connect(start_threads)
worker_ready.connect(create_ready_file)
worker_process_init.connect(start_tracing)
worker_process_init.connect(prepare_child)
worker_process_init.connect(import_ahead)
worker_process_shutdown.connect(finish_tracing)
worker_shutting_down.connect(stop_children)
beat_init.connect(start_tracing)
beat_init.connect(relay.start)
beat_init.connect(create_ready_file)
