"""The worker's two Celery tasks: run a job, and sweep.

`worker.run` imports torch, so it is imported in the child process only: a parent that has computed with torch makes its forked
children hang.
"""

import functools
import os
import socket
from datetime import timedelta
from uuid import UUID

from sqlalchemy.orm import Session, sessionmaker
from structlog.contextvars import bound_contextvars

from ledger.db import make_engine, make_sessions
from ledger.events.outbox import RUN_JOB, SWEEP
from ledger.jobs import heartbeats
from ledger.jobs.claims import sweep
from telemetry.tracing import span
from worker.app import celery_app
from worker.child import stop_on_sigterm, stop_signal
from worker.cleanup import delete_finished_checkpoints, record_storage_room
from worker.failures import GpuLost
from worker.settings import Settings, read_settings
from worker.signing import sign_log


@functools.cache
def settings() -> Settings:
    """Read the settings once a process."""
    return read_settings()


@functools.cache
def sessions() -> sessionmaker[Session]:
    """Connect once a process, because connections do not survive a fork: one for the job, one for its lease."""
    url, limit = settings().database_url.get_secret_value(), settings().statement_seconds
    return make_sessions(make_engine(url, pool_size=2, statement_seconds=limit))


@celery_app.task(name=RUN_JOB)  # type: ignore[untyped-decorator]  # Celery ships no types
def run_job(job_id: str) -> None:
    """Run a job if it can be claimed. A second delivery of the message cannot claim it, and does nothing."""
    from worker import run

    worker = f"{socket.gethostname()}:{os.getpid()}"
    with stop_on_sigterm(), bound_contextvars(job_id=job_id), span("job", job_id=job_id):
        try:
            claimed = run.run_job(
                UUID(job_id), sessions=sessions(), settings=settings(), worker=worker, stop_signal=stop_signal
            )
        except GpuLost as error:
            raise SystemExit(str(error)) from None  # The pool starts another child.
    if claimed:
        wake_ready(at_most=1)
        delete_finished_checkpoints(settings().storage, sessions())


@celery_app.task(name=SWEEP)  # type: ignore[untyped-decorator]  # Celery ships no types
def sweep_jobs() -> None:
    """Requeue jobs with expired leases, wake every job that is due, sign the log if it has grown, and clean up.

    In this order, so that no job waits for a fault of the log or the disk. Sweeps pile up while no worker runs; all but the first
    of them find that one has just been done.
    """
    with sessions().begin() as session:
        if heartbeats.was_seen_within(session, heartbeats.SWEEP, timedelta(seconds=settings().sweep_seconds / 2)):
            return
        heartbeats.record_heartbeat(session, heartbeats.SWEEP)
    wake_ready(at_most=None)
    sign_log(sessions(), settings())
    delete_finished_checkpoints(settings().storage, sessions())
    record_storage_room(settings().storage, sessions())


def wake_ready(*, at_most: int | None) -> None:
    """Send a wake-up for each job that could be claimed now. The next sweep repeats those that get lost."""
    with sessions().begin() as session:
        ready = sweep(session, max_attempts=settings().max_attempts, first_wait=settings().first_wait).wake
    for job_id in ready[:at_most]:
        celery_app.send_task(RUN_JOB, args=[str(job_id)])
