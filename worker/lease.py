"""A worker's run of a job under its lease: a thread renews the lease, every step checks whether the run must stop, and the run's
progress is written to the ledger as it goes, but not at every step.
"""

import logging
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from math import isfinite

from sqlalchemy.orm import Session, sessionmaker

from ledger.db import DATABASE_AWAY
from ledger.errors import JobCancelled, StaleClaim
from ledger.jobs.attempts import count_refused_write
from ledger.jobs.claims import Claim, ClaimedJob, lock_claimed_job, record_progress, renew_lease
from ledger.states import Phase
from telemetry.tracing import span
from unlearning.steps import Progress
from worker.child import StopSignal
from worker.failures import ShuttingDown
from worker.launch import Launch
from worker.settings import Settings
from worker.watchdog import ProgressNotes

logger = logging.getLogger(__name__)

INTERVAL = 2.0
"""Seconds between two writes of progress within a phase."""

PHASE_SHARES: Mapping[Phase, tuple[float, float]] = {
    Phase.LOAD: (0.0, 0.05),
    Phase.UNLEARN: (0.05, 0.55),
    Phase.AUDIT_MEMBERSHIP: (0.55, 0.70),
    Phase.AUDIT_RELEARN: (0.70, 0.95),
    Phase.REPORT: (0.95, 0.98),
    Phase.PUBLISH: (0.98, 1.0),
}
"""Where each phase starts and ends on the scale 0 to 1 of the whole job. A convention: how long each takes differs."""

MIN_SHARE_FOR_ETA = 0.1
"""Below this share of the job, the time left is not extrapolated."""


@dataclass(slots=True)
class Run:
    """One worker's run of one job: its claim, what the renewals of the lease have found out, and what it has reported so far.

    A run that escalates to the next method replaces `claim`, and holds `lock` meanwhile: a renewal in between would find the old
    claim stale. lost, cancelled: set by the renewals. notes: tell the parent process of the progress. launch: of the ranks that run
    the methods; None where this process does.
    timings: seconds by stage since the claim; of these, `earlier_timings` belong to the attempts before this one. metrics: this
    attempt's. audit_errors: what the audits of earlier methods raised. started, written: monotonic seconds. share: of the whole job
    that is done, 0 to 1, as last written, in `phase`. resumed: whether this attempt continues from a training checkpoint.
    private_ids: IDs of samples and subjects that no message may quote.
    """

    claim: Claim
    sessions: sessionmaker[Session]
    settings: Settings
    stop_signal: StopSignal
    notes: ProgressNotes | None = None
    launch: Launch | None = None
    lock: threading.Lock = field(default_factory=threading.Lock)
    lost: threading.Event = field(default_factory=threading.Event)
    cancelled: threading.Event = field(default_factory=threading.Event)
    timings: dict[str, float] = field(default_factory=dict)
    earlier_timings: dict[str, float] = field(default_factory=dict)
    metrics: dict[str, float] = field(default_factory=dict)
    audit_errors: set[str] = field(default_factory=set)
    started: float = field(default_factory=time.monotonic)
    written: float = 0.0
    phase: Phase = Phase.LOAD
    share: float = 0.0
    resumed: bool = False
    private_ids: tuple[str, ...] = ()

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
def hold_lease(run: Run) -> Iterator[None]:
    """Renew the lease every third of its length, in a thread with a database connection of its own.

    A run may go on for `cancel_seconds` of the settings after its job was cancelled or its lease lost; the notes tell the parent to
    end it then.
    """
    done, notes = threading.Event(), run.notes

    def renew_until_done() -> None:
        while not done.wait(run.settings.lease.total_seconds() / 3):
            if not run.lost.is_set():
                _renew(run)
            if notes is not None and (run.lost.is_set() or run.cancelled.is_set()):
                notes.hurry(run.claim, seconds=run.settings.cancel_seconds)

    thread = threading.Thread(target=renew_until_done, daemon=True)
    if notes is not None:
        notes.advance(run.claim, Phase.LOAD)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
        if notes is not None:
            notes.end()


def _renew(run: Run) -> None:
    with run.lock:
        try:
            with fenced(run) as (session, job):
                renewal = renew_lease(session, job, lease=run.settings.lease)
        except StaleClaim:
            run.lost.set()
            return
        except Exception as error:
            # Usually the database is away. Whether the lease has expired then is decided by the database, at the next renewal or
            # write; a thread that ended here would lose it for certain.
            logger.warning("the lease of job %s was not renewed: %s", run.claim.job_id, type(error).__name__)
            return
    if renewal.cancel_requested:
        run.cancelled.set()


@contextmanager
def fenced(run: Run) -> Iterator[tuple[Session, ClaimedJob]]:
    """Open a transaction for writes of a run, and lock its job first. Raises StaleClaim, and then nothing is written."""
    with refusals_counted(run) as session:
        yield session, lock_claimed_job(session, run.claim)


@contextmanager
def refusals_counted(run: Run) -> Iterator[Session]:
    """Open a transaction of a run. A StaleClaim is counted in a transaction of its own, and raised again."""
    claim = run.claim
    try:
        with run.sessions.begin() as session:
            yield session
    except StaleClaim:
        try:
            with run.sessions.begin() as session:
                count_refused_write(session, claim.job_id, claim.attempt)
        except DATABASE_AWAY as error:
            logger.warning("a refused write of job %s was not counted: %s", claim.job_id, type(error).__name__)
        raise


@contextmanager
def stage(run: Run, phase: Phase) -> Iterator[None]:
    """Report that a stage starts, and time it. Raises what `Run.check` raises."""
    started = time.monotonic()
    report_progress(run, Progress(phase=phase.value, step=0, total=0))
    try:
        with span(phase.value):
            yield
    finally:
        add_time(run, phase, time.monotonic() - started)


def add_time(run: Run, timing: str, seconds: float) -> None:
    """Add seconds to the time of a stage (`Phase`), or to `DATA_WAIT`."""
    name = str(timing)
    run.timings[name] = run.timings.get(name, 0.0) + seconds


def attempt_timings(run: Run) -> dict[str, float]:
    """Return the seconds by stage of this attempt. Loading is done once, and counts for every attempt."""
    return {stage: seconds - run.earlier_timings.get(stage, 0.0) for stage, seconds in run.timings.items()}


def start_next_attempt(run: Run) -> None:
    """Start the figures of the next attempt."""
    run.earlier_timings = {stage: seconds for stage, seconds in run.timings.items() if stage != Phase.LOAD}
    run.metrics, run.started, run.resumed = {}, time.monotonic(), False


def report_progress(run: Run, progress: Progress) -> None:
    """Stop the run if it must stop; write the progress when a phase starts, and at most every two seconds within it.

    Raises what `Run.check` raises.
    """
    run.check()
    phase, now = Phase(progress.phase), time.monotonic()
    if run.notes is not None:
        run.notes.advance(run.claim, phase)
    run.metrics.update({name: value for name, value in progress.metrics.items() if isfinite(value)})
    if phase is run.phase and now - run.written < INTERVAL:
        return
    share = share_of_job(phase, step=progress.step, total=progress.total)
    if phase is run.phase:
        share = max(share, run.share)  # A repair adds steps to a phase; progress never goes back.
    run.phase, run.written, run.share = phase, now, share
    elapsed = now - run.started
    with fenced(run) as (session, job):
        record_progress(
            session,
            job,
            phase=phase,
            progress=share,
            step=progress.step,
            total=progress.total,
            eta_seconds=elapsed * (1 - share) / share if share >= MIN_SHARE_FOR_ETA else None,
            metrics=dict(run.metrics),
            timings=dict(run.timings),
        )


def share_of_job(phase: Phase, *, step: int, total: int) -> float:
    """Return how much of the whole job is done after a step of a phase, 0 to 1."""
    start, end = PHASE_SHARES[phase]
    return start + (end - start) * (min(step, total) / total if total else 0.0)
