"""The two messages a worker obeys. Torch comes in with `worker.run`, in the child process only: a parent that has computed
with torch would make its forked children hang.
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
from worker.child import stoppable, stopping
from worker.cleanup import delete_finished_checkpoints
from worker.errors import GpuLost
from worker.settings import Settings, read_settings
from worker.signing import sign_log


@functools.cache
def settings() -> Settings:
    """Read the settings once a process."""
    return read_settings()


@functools.cache
def sessions() -> sessionmaker[Session]:
    """Connect once a process: connections do not survive a fork. One for the job, one for its heartbeat."""
    return make_sessions(make_engine(settings().database_url.get_secret_value(), pool_size=2))


@celery_app.task(name=RUN_JOB)  # type: ignore[untyped-decorator]  # Celery ships no types
def run_job(job_id: str) -> None:
    """Run a job if it can be claimed; a second delivery finds that it can not, and does nothing."""
    from worker.run import run

    worker = f"{socket.gethostname()}:{os.getpid()}"
    with stoppable(), bound_contextvars(job_id=job_id), span("job", job_id=job_id):
        try:
            claimed = run(UUID(job_id), sessions=sessions(), settings=settings(), worker=worker, stopping=stopping)
        except GpuLost as error:
            raise SystemExit(str(error)) from None  # the pool starts another child
    if claimed:
        wake_ready(at_most=1)
        delete_finished_checkpoints(settings().storage, sessions())


@celery_app.task(name=SWEEP)  # type: ignore[untyped-decorator]  # Celery ships no types
def sweep_jobs() -> None:
    """Take back lapsed leases and wake every job that is due; then sign the log where it has grown, and tidy up.

    In that order, so that no job waits for a fault of the log or the disk. Sweeps pile up while no worker is there; all but the
    first of them find that one has just been.
    """
    with sessions().begin() as session:
        if heartbeats.was_seen_within(session, heartbeats.SWEEP, timedelta(seconds=settings().sweep_seconds / 2)):
            return
        heartbeats.record_heartbeat(session, heartbeats.SWEEP)
    wake_ready(at_most=None)
    sign_log(sessions(), settings())
    delete_finished_checkpoints(settings().storage, sessions())


def wake_ready(*, at_most: int | None) -> None:
    """Send a message for each job that could be claimed now; what is lost, the next sweep sends again."""
    with sessions().begin() as session:
        ready = sweep(session, max_attempts=settings().max_attempts).wake
    for job_id in ready[:at_most]:
        celery_app.send_task(RUN_JOB, args=[str(job_id)])
