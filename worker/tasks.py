"""The worker's Celery tasks: run a job, and check whether a model can be built.

`worker.run` imports torch, so it is imported in the child process only: a parent that has computed with torch makes its forked
children hang.
"""

import functools
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from uuid import UUID

from sqlalchemy.orm import Session, sessionmaker
from structlog.contextvars import bound_contextvars

from ledger.db import make_engine, make_sessions
from ledger.events.outbox import RUN_JOB
from ledger.jobs.jobs import find_trace
from ledger.jobs.workers import CHECK_LIMIT, CHECK_MODEL
from telemetry import tracing
from worker import checks
from worker.app import celery_app
from worker.beat.relay import sweep_jobs, wakeup_sender
from worker.child import code_has_changed, stop_on_sigterm, stop_signal
from worker.cleanup import delete_finished_checkpoints
from worker.failures import GpuLost
from worker.settings import Settings, read_settings
from worker.watchdog import notes_of_this_process

wake = wakeup_sender(celery_app, retry=True)
"""Sends a job's wake-up. If it gets lost, the beat's next sweep repeats it."""


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
def receive_wakeup(job_id: str) -> None:
    """Run a job if it can be claimed. A second delivery of the message cannot claim it, and does nothing."""
    from worker.run import run_job

    if code_has_changed():
        wake(UUID(job_id))
        raise SystemExit("The workload's code has changed: another process loads it anew.")
    worker = f"{socket.gethostname()}:{os.getpid()}"
    with stop_on_sigterm(), bound_contextvars(job_id=job_id), traced(UUID(job_id)):
        try:
            claimed = run_job(
                UUID(job_id),
                sessions=sessions(),
                settings=settings(),
                worker=worker,
                stop_signal=stop_signal,
                notes=notes_of_this_process(settings()),
            )
        except GpuLost as error:
            raise SystemExit(str(error)) from None  # The pool starts another child.
    if claimed:
        sweep_jobs(sessions(), settings(), send=wake, at_most=1)
        delete_finished_checkpoints(settings().files, sessions())


@celery_app.task(name=CHECK_MODEL, time_limit=CHECK_LIMIT.total_seconds())  # type: ignore[untyped-decorator]  # Celery ships no types
def check_model(model_id: str) -> None:
    """Check that this worker can build a model. If the message gets lost, the ledger shows that the check has not ended."""
    if code_has_changed():
        celery_app.send_task(CHECK_MODEL, args=[model_id])
        raise SystemExit("The workload's code has changed: another process loads it anew.")
    checks.check_model(UUID(model_id), sessions=sessions(), settings=settings())


@contextmanager
def traced(job_id: UUID) -> Iterator[None]:
    """Open the span of a job, in the trace of the call that opened the job, whoever sent the wake-up."""
    if not tracing.is_on():
        yield
        return
    with sessions()() as session:
        caller = find_trace(session, job_id)
    with tracing.continued(caller), tracing.span("job", job_id=str(job_id)):
        yield
