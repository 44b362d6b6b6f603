"""The progress watchdog: the parent process ends a child whose job makes no progress.

A child that hangs, in an owner's factory, a driver or a lock, cannot end itself, and its lease's thread goes on renewing. So the
child notes in memory that it shares with its parent until when its job must have made progress. The parent reads the notes, ends
the attempt in the ledger, and kills the child; the pool starts another. It needs no torch and no help from the child.
"""

import logging
import mmap
import os
import signal
import struct
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from uuid import UUID

from billiard import active_children, current_process  # type: ignore[import-untyped]  # it ships no types
from sqlalchemy.orm import Session, sessionmaker

from ledger.errors import StaleClaim
from ledger.jobs import results
from ledger.jobs.claims import Claim, Fence, lock_claimed_job
from ledger.states import Phase, Reason
from worker.settings import Settings

logger = logging.getLogger(__name__)

POLL_INTERVAL = 1.0
"""Seconds between two polls of the notes. A note must be overdue in two polls: one may be read while it is written."""

_SLOTS, _SIZE = 64, 128
"""Children that can be watched at once, and bytes of a note."""

_DEADLINE, _DETAILS = struct.Struct("=d"), struct.Struct("=16sqqd32s")


@dataclass(frozen=True, kw_only=True, slots=True)
class Note:
    """What a child notes of its job. deadline: seconds of the monotonic clock, which all processes of a machine share.

    limit: the seconds that the phase may take without progress.
    """

    deadline: float
    job_id: UUID
    attempt: int
    pid: int
    limit: float
    phase: str


class Board:
    """A note for each child of a worker, in memory that parent and children share. Make it before the children are forked."""

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, _SLOTS * _SIZE)

    def write(self, slot: int, note: Note) -> None:
        """Write a child's note. The deadline is written last: without one a note does not count."""
        details = (note.job_id.bytes, note.attempt, note.pid, note.limit, note.phase.encode()[:32])
        _DEADLINE.pack_into(self._memory, slot * _SIZE, 0.0)
        _DETAILS.pack_into(self._memory, slot * _SIZE + _DEADLINE.size, *details)
        _DEADLINE.pack_into(self._memory, slot * _SIZE, note.deadline)

    def clear(self, slot: int) -> None:
        """Remove a child's note: it has no job."""
        _DEADLINE.pack_into(self._memory, slot * _SIZE, 0.0)

    def read(self) -> dict[int, Note]:
        """Read the notes, by slot."""
        found = {}
        for slot in range(_SLOTS):
            (deadline,) = _DEADLINE.unpack_from(self._memory, slot * _SIZE)
            if deadline:
                job, attempt, pid, limit, phase = _DETAILS.unpack_from(self._memory, slot * _SIZE + _DEADLINE.size)
                name = phase.rstrip(b"\0").decode(errors="replace")
                found[slot] = Note(
                    deadline=deadline, job_id=UUID(bytes=job), attempt=attempt, pid=pid, limit=limit, phase=name
                )
        return found


@dataclass(slots=True)
class ProgressNotes:
    """A child's side: it notes on the board that its job has made progress. limits: seconds without progress, by phase."""

    board: Board
    slot: int
    limits: Mapping[Phase, float]
    pid: int = field(default_factory=os.getpid)
    hurried: float | None = None
    last: Note | None = None

    def advance(self, claim: Claim, phase: Phase) -> None:
        """Note that the job has made progress, in a phase."""
        limit = self.limits[phase]
        self._write(claim, phase, limit=limit, deadline=time.monotonic() + limit)

    def hurry(self, claim: Claim, *, seconds: float) -> None:
        """Leave a job that must stop only so many seconds until its next step. Calling it again leaves no more."""
        if self.hurried is None:
            self.hurried = time.monotonic() + seconds
        phase = Phase.WAITING if self.last is None else Phase(self.last.phase)
        self._write(claim, phase, limit=seconds, deadline=self.hurried)

    def end(self) -> None:
        """Note that the child has no job."""
        self.hurried = self.last = None
        self.board.clear(self.slot)

    def _write(self, claim: Claim, phase: Phase, *, limit: float, deadline: float) -> None:
        if self.hurried is not None:
            deadline = min(deadline, self.hurried)
        self.last = Note(
            deadline=deadline,
            job_id=claim.job_id,
            attempt=claim.attempt,
            pid=self.pid,
            limit=limit,
            phase=phase.value,
        )
        self.board.write(self.slot, self.last)


_board: Board | None = None


def create_board(**_: object) -> None:
    """Create the notes, in the parent before it has children."""
    global _board
    _board = Board()


def notes_of_this_process(settings: Settings) -> ProgressNotes | None:
    """Give a child its side; None in a process that is no child of a worker."""
    slot = getattr(current_process(), "index", None)
    if _board is None or slot is None or slot >= _SLOTS:
        return None
    return ProgressNotes(_board, slot, settings.stall_limits)


@dataclass(slots=True)
class Watchdog:
    """The parent's side. overdue: notes that were overdue in the last poll, by slot."""

    sessions: sessionmaker[Session]
    settings: Settings
    board: Board
    overdue: dict[int, Note] = field(default_factory=dict)

    def poll(self) -> None:
        """End every child whose note was overdue in the last poll and is unchanged."""
        now = time.monotonic()
        late = {slot: note for slot, note in self.board.read().items() if note.deadline < now}
        for slot, note in late.items():
            if self.overdue.get(slot) == note:
                self._end(slot, note)
        self.overdue = late

    def _end(self, slot: int, note: Note) -> None:
        """End the attempt in the ledger first: after the kill the pool forks, which should find this thread at rest."""
        detail = (
            f"No progress for {note.limit:g} s in phase {note.phase}, so the worker's process was ended. If the phase needs more "
            "time between two steps, raise EXPUNGE_STALL_*_SECONDS; otherwise find out what it waits for."
        )
        logger.error("job %s: %s", note.job_id, detail)
        try:
            with self.sessions.begin() as session:
                results.fail(
                    session,
                    lock_claimed_job(session, Fence(note.job_id, note.attempt)),
                    reason=Reason.STALLED,
                    detail=detail,
                    rule=self.settings.retry_rule,
                )
        except StaleClaim:
            pass  # Its lease has expired already, and the sweep has moved it on.
        except Exception as error:
            logger.warning("the end of job %s was not written: %s", note.job_id, type(error).__name__)
        self.board.clear(slot)
        if note.pid in {child.pid for child in active_children()}:
            os.kill(note.pid, signal.SIGKILL)


def make_watchdog(sessions: sessionmaker[Session], settings: Settings) -> Watchdog:
    """Make the parent's side of the notes that `create_board` made."""
    assert _board is not None
    return Watchdog(sessions, settings, _board)
