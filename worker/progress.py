"""How far a run is: written to the ledger as it goes, but not at every step."""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from math import isfinite

from sqlalchemy.orm import Session, sessionmaker

from ledger.jobs.claims import record_progress
from ledger.states import Phase
from telemetry.tracing import span
from unlearning.task import Progress
from worker.lease import Watch, fenced

INTERVAL = 2.0
"""Seconds between two writes within a phase."""

SPANS: Mapping[Phase, tuple[float, float]] = {
    Phase.LOAD: (0.0, 0.05),
    Phase.UNLEARN: (0.05, 0.55),
    Phase.AUDIT_MEMBERSHIP: (0.55, 0.70),
    Phase.AUDIT_RELEARN: (0.70, 0.95),
    Phase.REPORT: (0.95, 0.98),
    Phase.PUBLISH: (0.98, 1.0),
}
"""Where each phase begins and ends on the scale 0..1 of the whole job. A convention: how long each takes differs."""

TRUSTED_FROM = 0.1
"""Progress from which on the time left is extrapolated; less says too little."""


@dataclass(slots=True)
class Journal:
    """What a run has to say about itself.

    timings: seconds by stage since the claim. earlier: those of the attempts before this one. metrics: this attempt's.
    share: of the whole job that is done, 0 to 1, as it was last written, in `phase`.
    """

    watch: Watch
    sessions: sessionmaker[Session]
    timings: dict[str, float] = field(default_factory=dict)
    earlier: dict[str, float] = field(default_factory=dict)
    metrics: dict[str, float] = field(default_factory=dict)
    started: float = field(default_factory=time.monotonic)
    written: float = 0.0
    phase: Phase = Phase.LOAD
    share: float = 0.0


@contextmanager
def stage(journal: Journal, phase: Phase) -> Iterator[None]:
    """Time a stage, and write at its start that it has begun."""
    begun = time.monotonic()
    note(journal, Progress(phase=phase.value, step=0, total=0))
    try:
        with span(phase.value):
            yield
    finally:
        add_time(journal, phase, time.monotonic() - begun)


def add_time(journal: Journal, phase: Phase, seconds: float) -> None:
    """Add to a stage's time."""
    journal.timings[phase.value] = journal.timings.get(phase.value, 0.0) + seconds


def spent(journal: Journal) -> dict[str, float]:
    """Give the seconds by stage of this attempt; loading, which is done once, is every attempt's."""
    return {stage: seconds - journal.earlier.get(stage, 0.0) for stage, seconds in journal.timings.items()}


def start_afresh(journal: Journal) -> None:
    """Begin the figures of the next attempt."""
    journal.earlier = {stage: time for stage, time in journal.timings.items() if stage != Phase.LOAD}
    journal.metrics = {}


def note(journal: Journal, progress: Progress) -> None:
    """Stop the run where it must stop; write the progress when a phase begins and at most every two seconds within it.

    Raises what `Watch.check` raises.
    """
    journal.watch.check()
    phase, now = Phase(progress.phase), time.monotonic()
    journal.metrics.update({name: value for name, value in progress.metrics.items() if isfinite(value)})
    if phase is journal.phase and now - journal.written < INTERVAL:
        return
    share = overall(phase, step=progress.step, total=progress.total)
    if phase is journal.phase:
        share = max(share, journal.share)  # A repair that turns out to be needed adds steps, and takes none back.
    journal.phase, journal.written, journal.share = phase, now, share
    elapsed = now - journal.started
    with fenced(journal.sessions, journal.watch.claim) as session:
        record_progress(
            session,
            journal.watch.claim,
            phase=phase,
            progress=share,
            step=progress.step,
            total=progress.total,
            eta_seconds=elapsed * (1 - share) / share if share >= TRUSTED_FROM else None,
            metrics=dict(journal.metrics),
            timings=dict(journal.timings),
        )


def overall(phase: Phase, *, step: int, total: int) -> float:
    """Place a step within a phase on the scale of the whole job."""
    begin, end = SPANS[phase]
    return begin + (end - begin) * (min(step, total) / total if total else 0.0)
