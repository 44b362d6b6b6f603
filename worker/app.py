"""The Celery application: start with `celery -A worker.app worker --pool prefork --concurrency 1`, and `… beat`.

A message is a wake-up: it carries a job's id, is acknowledged at once, and its loss or its double does no harm, because
the job's row and its lease decide (a broker that redelivers what is unacknowledged would run a long job twice).
"""

import logging
from typing import Any

from celery import Celery
from celery.signals import (
    after_setup_logger,
    beat_init,
    worker_process_init,
    worker_process_shutdown,
    worker_ready,
    worker_shutting_down,
)

from ledger.events.outbox import SWEEP
from telemetry import logs, tracing
from worker.beat import relay as courier
from worker.child import prepare_child, stop_children
from worker.settings import read_settings


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
        "beat_schedule": {
            "sweep": {
                "task": SWEEP,
                # Without a time of expiry, which the worker would compare with its own clock.
                "schedule": settings.sweep_seconds,
            }
        },
    }


celery_app = Celery("expunge", include=["worker.tasks"])
celery_app.add_defaults(configuration)


def mark_ready(**_: object) -> None:
    """Make the ready file, for whoever started this process and waits."""
    ready_file = read_settings().ready_file
    if ready_file is not None:
        ready_file.touch()


def quieten(**_: object) -> None:
    """Keep Celery's three lines for each sweep out of the log; the jobs have their own."""
    for name in ("celery.worker.strategy", "celery.worker.request", "celery.app.trace", "celery.beat"):
        logging.getLogger(name).setLevel(logging.WARNING)


def structure(logger: logging.Logger, **_: object) -> None:
    """Log in lines of JSON where the operator asked for it."""
    if logs.wants_json():
        logs.write_json(logger.handlers)


def trace(**_: object) -> None:
    """Send spans from this process, a worker's child or the beat."""
    tracing.start("expunge-worker")


def finish_trace(**_: object) -> None:
    """Send the last spans before the child ends."""
    tracing.finish()


worker_ready.connect(mark_ready)
beat_init.connect(mark_ready)
beat_init.connect(courier.start)
after_setup_logger.connect(quieten)
after_setup_logger.connect(structure)
beat_init.connect(trace)
worker_process_init.connect(trace)
worker_process_shutdown.connect(finish_trace)
worker_process_init.connect(prepare_child)
worker_shutting_down.connect(stop_children)
