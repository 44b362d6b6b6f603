"""Progress of a run: written to the ledger as it goes, but not at every step."""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from math import isfinite

from sqlalchemy.orm import Session, sessionmaker

from ledger.jobs.claims import record_progress
from ledger.states import Phase
from telemetry.tracing import span
from unlearning.steps import Progress
from worker.lease import LeaseMonitor, fenced

INTERVAL = 2.0
"""Seconds between two writes within a phase."""

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
class ProgressReporter:
    """What a run has reported so far.

    timings: seconds by stage since the claim; of these, `earlier_timings` belong to the attempts before this one. metrics: this
    attempt's. audit_errors: what the audits of earlier methods raised. started, written: monotonic seconds. share: of the whole job
    that is done, 0 to 1, as last written, in `phase`. resumed: whether this attempt continues from a training checkpoint.
    private_ids: IDs of samples and subjects that no message may quote.
    """

    monitor: LeaseMonitor
    sessions: sessionmaker[Session]
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


@contextmanager
def stage(reporter: ProgressReporter, phase: Phase) -> Iterator[None]:
    """Report that a stage starts, and time it. Raises what `LeaseMonitor.check` raises."""
    started = time.monotonic()
    report_progress(reporter, Progress(phase=phase.value, step=0, total=0))
    try:
        with span(phase.value):
            yield
    finally:
        add_time(reporter, phase, time.monotonic() - started)


def add_time(reporter: ProgressReporter, timing: str, seconds: float) -> None:
    """Add seconds to the time of a stage (`Phase`), or to `DATA_WAIT`."""
    name = str(timing)
    reporter.timings[name] = reporter.timings.get(name, 0.0) + seconds


def attempt_timings(reporter: ProgressReporter) -> dict[str, float]:
    """Return the seconds by stage of this attempt. Loading is done once, and counts for every attempt."""
    return {stage: seconds - reporter.earlier_timings.get(stage, 0.0) for stage, seconds in reporter.timings.items()}


def start_next_attempt(reporter: ProgressReporter) -> None:
    """Start the figures of the next attempt."""
    reporter.earlier_timings = {stage: seconds for stage, seconds in reporter.timings.items() if stage != Phase.LOAD}
    reporter.metrics, reporter.started, reporter.resumed = {}, time.monotonic(), False


def report_progress(reporter: ProgressReporter, progress: Progress) -> None:
    """Stop the run if it must stop; write the progress when a phase starts, and at most every two seconds within it.

    Raises what `LeaseMonitor.check` raises.
    """
    reporter.monitor.check()
    if reporter.monitor.notes is not None:
        reporter.monitor.notes.advance(reporter.monitor.claim, Phase(progress.phase))
    phase, now = Phase(progress.phase), time.monotonic()
    reporter.metrics.update({name: value for name, value in progress.metrics.items() if isfinite(value)})
    if phase is reporter.phase and now - reporter.written < INTERVAL:
        return
    share = share_of_job(phase, step=progress.step, total=progress.total)
    if phase is reporter.phase:
        share = max(share, reporter.share)  # A repair adds steps to a phase; progress never goes back.
    reporter.phase, reporter.written, reporter.share = phase, now, share
    elapsed = now - reporter.started
    with fenced(reporter.sessions, reporter.monitor.claim) as (session, job):
        record_progress(
            session,
            job,
            phase=phase,
            progress=share,
            step=progress.step,
            total=progress.total,
            eta_seconds=elapsed * (1 - share) / share if share >= MIN_SHARE_FOR_ETA else None,
            metrics=dict(reporter.metrics),
            timings=dict(reporter.timings),
        )


def share_of_job(phase: Phase, *, step: int, total: int) -> float:
    """Return how much of the whole job is done after a step of a phase, 0 to 1."""
    start, end = PHASE_SHARES[phase]
    return start + (end - start) * (min(step, total) / total if total else 0.0)
