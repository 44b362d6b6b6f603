"""The lease of a running job: a thread renews it, and the run checks at every step whether it must stop."""

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta

from sqlalchemy.orm import Session, sessionmaker

from ledger.db import DATABASE_AWAY
from ledger.errors import JobCancelled, StaleClaim
from ledger.jobs.attempts import count_refused_write
from ledger.jobs.claims import Claim, ClaimedJob, lock_claimed_job, renew_lease
from ledger.states import Phase
from worker.child import StopSignal
from worker.failures import ShuttingDown
from worker.watchdog import ProgressNotes

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class LeaseMonitor:
    """What the renewals have found out; `check` reads it at every step.

    `claim` is the claim that is renewed. A run that escalates to the next method replaces it, and holds `lock` meanwhile: a renewal
    in between would find the old claim stale. `notes` tell the parent process of the run's progress.
    """

    claim: Claim
    stop_signal: StopSignal
    notes: ProgressNotes | None = None
    lock: threading.Lock = field(default_factory=threading.Lock)
    lost: threading.Event = field(default_factory=threading.Event)
    cancelled: threading.Event = field(default_factory=threading.Event)

    def must_stop(self) -> bool:
        """Return whether `check` would raise."""
        return self.lost.is_set() or self.cancelled.is_set() or self.stop_signal.is_set

    def check(self) -> None:
        """Raise StaleClaim, JobCancelled or ShuttingDown if the run must stop. It is cheap: call it at every step."""
        if self.lost.is_set():
            raise StaleClaim(f"attempt {self.claim.attempt} at job {self.claim.job_id} has lost its lease")
        if self.cancelled.is_set():
            raise JobCancelled(f"job {self.claim.job_id} was cancelled while it ran")
        if self.stop_signal.is_set:
            raise ShuttingDown("the worker is shutting down")


@contextmanager
def hold_lease(
    claim: Claim,
    *,
    sessions: sessionmaker[Session],
    lease: timedelta,
    stop_signal: StopSignal,
    notes: ProgressNotes | None = None,
    patience: float = 60.0,
) -> Iterator[LeaseMonitor]:
    """Renew the lease every third of its length, in a thread with a database connection of its own.

    patience: seconds that a run may go on after its job was cancelled or its lease lost; the notes tell the parent to end it then.
    """
    monitor, done = LeaseMonitor(claim, stop_signal, notes), threading.Event()

    def renew_until_done() -> None:
        while not done.wait(lease.total_seconds() / 3):
            if not monitor.lost.is_set():
                _renew(monitor, sessions=sessions, lease=lease)
            if notes is not None and (monitor.lost.is_set() or monitor.cancelled.is_set()):
                notes.hurry(monitor.claim, seconds=patience)

    thread = threading.Thread(target=renew_until_done, daemon=True)
    if notes is not None:
        notes.advance(claim, Phase.LOAD)
    thread.start()
    try:
        yield monitor
    finally:
        done.set()
        thread.join()
        if notes is not None:
            notes.end()


def _renew(monitor: LeaseMonitor, *, sessions: sessionmaker[Session], lease: timedelta) -> None:
    with monitor.lock:
        try:
            with fenced(sessions, monitor.claim) as (session, job):
                renewal = renew_lease(session, job, lease=lease)
        except StaleClaim:
            monitor.lost.set()
            return
        except Exception as error:
            # Usually the database is away. Whether the lease has expired then is decided by the database, at the next renewal or
            # write; a thread that ended here would lose it for certain.
            logger.warning("the lease of job %s was not renewed: %s", monitor.claim.job_id, type(error).__name__)
            return
    if renewal.cancel_requested:
        monitor.cancelled.set()


@contextmanager
def fenced(sessions: sessionmaker[Session], claim: Claim) -> Iterator[tuple[Session, ClaimedJob]]:
    """Open a transaction for writes of a claim, and lock its job first. Raises StaleClaim, and then nothing is written."""
    with refusals_counted(sessions, claim) as session:
        yield session, lock_claimed_job(session, claim)


@contextmanager
def refusals_counted(sessions: sessionmaker[Session], claim: Claim) -> Iterator[Session]:
    """Open a transaction for a claim. A StaleClaim is counted in a transaction of its own, and raised again."""
    try:
        with sessions.begin() as session:
            yield session
    except StaleClaim:
        try:
            with sessions.begin() as session:
                count_refused_write(session, claim.job_id, claim.attempt)
        except DATABASE_AWAY as error:
            logger.warning("a refused write of job %s was not counted: %s", claim.job_id, type(error).__name__)
        raise
