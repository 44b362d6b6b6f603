"""The Celery application: start with `celery -A worker.app worker --pool prefork --concurrency 1`, and `… beat`.

A message is a wake-up: it carries a job's ID and is acknowledged at once. Losing or doubling it does no harm, because the job's row
and its lease decide. (A broker that redelivers unacknowledged messages would run a long job twice.)
"""

import logging
from typing import Any

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

from telemetry import logs, tracing
from worker import parent
from worker.beat import relay
from worker.child import prepare_child, stop_children
from worker.settings import read_settings
from worker.watchdog import create_board


def configuration() -> dict[str, Any]:
    """Read the settings when Celery first needs them, not when this module is imported."""
    settings = read_settings()
    return {
        "broker_url": settings.redis_url.get_secret_value(),
        "broker_connection_retry_on_startup": True,
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


after_setup_logger.connect(configure_logs)
worker_init.connect(create_board)
worker_ready.connect(parent.start)
worker_ready.connect(create_ready_file)
worker_process_init.connect(start_tracing)
worker_process_init.connect(prepare_child)
worker_process_shutdown.connect(finish_tracing)
worker_shutting_down.connect(stop_children)
beat_init.connect(create_ready_file)
beat_init.connect(relay.start)
beat_init.connect(start_tracing)
