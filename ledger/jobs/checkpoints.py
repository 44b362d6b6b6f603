"""Training checkpoints of jobs. A file counts once the ledger has its digest, which only a worker with a valid lease can record."""

from collections.abc import Collection
from dataclasses import asdict, dataclass
from uuid import UUID

from sqlalchemy import select
from sqlalchemy.orm import Session

from ledger.events.timeline import record
from ledger.jobs.claims import ClaimedJob
from ledger.tables import Job


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingCheckpoint:
    """The saved state of a job's method: the attempt that saved it, the SHA-256 (hex) of its file, and the step of `total`."""

    attempt: int
    sha256: str
    step: int
    total: int


def record_checkpoint(session: Session, job: ClaimedJob, *, sha256: str, step: int, total: int) -> None:
    """Record the checkpoint from which the job will resume. Tries are counted anew once a job gets further."""
    if step > job.furthest_step:
        job.furthest_step, job.tries = step, 0
    job.checkpoint = asdict(TrainingCheckpoint(attempt=job.attempt, sha256=sha256, step=step, total=total))
    session.flush()


def last_checkpoint(job: ClaimedJob) -> TrainingCheckpoint | None:
    """Return the job's last checkpoint, if there is one."""
    return None if job.checkpoint is None else TrainingCheckpoint(**job.checkpoint)


def record_resumption(session: Session, job: ClaimedJob, checkpoint: TrainingCheckpoint) -> None:
    """Record that this attempt resumes from a checkpoint."""
    data = {"attempt": job.attempt, "of": checkpoint.attempt, "step": checkpoint.step, "total": checkpoint.total}
    record(session, "job.resumed", data, job_id=job.id)


def discard_checkpoint(session: Session, job: ClaimedJob, checkpoint: TrainingCheckpoint, *, why: str) -> None:
    """Discard a checkpoint that cannot be used, and record why."""
    job.checkpoint = None
    record(session, "job.checkpoint_ignored", {"of": checkpoint.attempt, "why": why}, job_id=job.id)


def record_unsaved_checkpoint(session: Session, job: ClaimedJob, *, why: str) -> None:
    """Record that a checkpoint could not be written, and why."""
    record(session, "job.checkpoint_failed", {"why": why}, job_id=job.id)


def unfinished_jobs(session: Session, job_ids: Collection[UUID]) -> set[UUID]:
    """Tell which of these jobs have not ended and may still need their checkpoint."""
    return set(session.scalars(select(Job.id).where(Job.id.in_(job_ids), Job.finished_at.is_(None))))
