"""Checkpoints that count: a file is one only once the ledger has its digest, which a worker that lost its lease cannot give it."""

from collections.abc import Collection
from dataclasses import asdict, dataclass
from uuid import UUID

from sqlalchemy import select
from sqlalchemy.orm import Session

from ledger.events.timeline import record
from ledger.jobs.claims import Claim, lock_claimed_job
from ledger.tables import Job


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingCheckpoint:
    """How far a job's method was saved: the attempt that did so, the SHA-256 of its file, and the step."""

    attempt: int
    sha256: str
    step: int
    total: int


def record_checkpoint(session: Session, claim: Claim, *, sha256: str, step: int, total: int) -> None:
    """From now on the job goes on from this file. Raises StaleClaim."""
    job = lock_claimed_job(session, claim)
    job.checkpoint = asdict(TrainingCheckpoint(attempt=claim.attempt, sha256=sha256, step=step, total=total))
    session.flush()


def last_checkpoint(session: Session, claim: Claim) -> TrainingCheckpoint | None:
    """Where the job's method was saved last, if it was. Raises StaleClaim."""
    found = lock_claimed_job(session, claim).checkpoint
    return None if found is None else TrainingCheckpoint(**found)


def record_resumption(session: Session, claim: Claim, checkpoint: TrainingCheckpoint) -> None:
    """Write on the timeline that this attempt goes on where another was. Raises StaleClaim."""
    lock_claimed_job(session, claim)
    told = {"attempt": claim.attempt, "of": checkpoint.attempt, "step": checkpoint.step, "total": checkpoint.total}
    record(session, "job.resumed", told, job_id=claim.job_id)


def discard_checkpoint(session: Session, claim: Claim, checkpoint: TrainingCheckpoint, *, why: str) -> None:
    """Write on the timeline that a checkpoint can not be used, and forget it. Raises StaleClaim."""
    job = lock_claimed_job(session, claim)
    job.checkpoint = None
    record(session, "job.checkpoint_ignored", {"of": checkpoint.attempt, "why": why}, job_id=claim.job_id)


def record_unsaved_checkpoint(session: Session, claim: Claim, *, why: str) -> None:
    """Write on the timeline that a checkpoint could not be written. Raises StaleClaim."""
    lock_claimed_job(session, claim)
    record(session, "job.checkpoint_failed", {"why": why}, job_id=claim.job_id)


def unfinished_jobs(session: Session, job_ids: Collection[UUID]) -> set[UUID]:
    """Which of these jobs have not ended, and may still need their checkpoint."""
    return set(session.scalars(select(Job.id).where(Job.id.in_(job_ids), Job.finished_at.is_(None))))
