"""A worker's transactions: what a lost lease refuses is counted, and stands on the timeline."""

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta

from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session, sessionmaker

from ledger.errors import JobCancelled, StaleClaim
from ledger.jobs.attempts import count_refused_write
from ledger.jobs.claims import Claim, renew_lease
from worker.child import Flag
from worker.errors import ShuttingDown


@contextmanager
def fenced(sessions: sessionmaker[Session], claim: Claim) -> Iterator[Session]:
    """Open a transaction of a claim. A StaleClaim within it is counted in a transaction of its own, and goes on up."""
    try:
        with sessions.begin() as session:
            yield session
    except StaleClaim:
        try:
            with sessions.begin() as session:
                count_refused_write(session, claim.job_id, claim.attempt)
        except OperationalError as error:
            logger.warning("a refused write of job %s was not counted: %s", claim.job_id, type(error.orig).__name__)
        raise


logger = logging.getLogger(__name__)


@dataclass(slots=True)
class Watch:
    """What the heartbeat has learnt; read by `check` at every step.

    `claim` is the claim that is renewed. The run replaces it when it goes on to the next method, and holds `turn` while it
    does: a renewal in between would take the claim's own successor for a stranger's.
    """

    claim: Claim
    stopping: Flag
    turn: threading.Lock = field(default_factory=threading.Lock)
    lost: threading.Event = field(default_factory=threading.Event)
    cancelled: threading.Event = field(default_factory=threading.Event)

    def check(self) -> None:
        """Raise StaleClaim, JobCancelled or ShuttingDown where the run must not go on. Cheap: call it at every step."""
        if self.lost.is_set():
            raise StaleClaim(f"The lease of job {self.claim.job_id} (attempt {self.claim.attempt}) is lost.")
        if self.cancelled.is_set():
            raise JobCancelled(f"Job {self.claim.job_id} was cancelled.")
        if self.stopping.is_set:
            raise ShuttingDown("The worker shuts down.")


@contextmanager
def kept(claim: Claim, *, sessions: sessionmaker[Session], lease: timedelta, stopping: Flag) -> Iterator[Watch]:
    """Renew the lease every third of its length, on a thread and a database connection of its own."""
    watch, done = Watch(claim, stopping), threading.Event()
    thread = threading.Thread(
        target=_heartbeat, args=(watch, done, lambda: _renew(watch, sessions=sessions, lease=lease), lease), daemon=True
    )
    thread.start()
    try:
        yield watch
    finally:
        done.set()
        thread.join()


def _heartbeat(watch: Watch, done: threading.Event, beat: Callable[[], None], lease: timedelta) -> None:
    while not done.wait(lease.total_seconds() / 3) and not watch.lost.is_set():
        beat()


def _renew(watch: Watch, *, sessions: sessionmaker[Session], lease: timedelta) -> None:
    with watch.turn:
        try:
            with fenced(sessions, watch.claim) as session:
                renewal = renew_lease(session, watch.claim, lease=lease)
        except StaleClaim:
            watch.lost.set()
            return
        except Exception as error:
            # The database is away, mostly. Whether the lease outlives that is the database's to say, at the next beat or write;
            # a heartbeat that ended would lose it for certain.
            logger.warning("the lease of job %s could not be renewed: %s", watch.claim.job_id, type(error).__name__)
            return
    if renewal.cancel_requested:
        watch.cancelled.set()
