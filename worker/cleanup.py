"""Training checkpoints on disk, and their deletion once their job has ended.

This module imports no torch, so that the worker's parent process can run a sweep.
"""

import shutil
from pathlib import Path
from uuid import UUID

from sqlalchemy.orm import Session, sessionmaker

from ledger.jobs.checkpoints import unfinished_jobs

FOLDER = "checkpoints"


def folder_of(storage: Path, job_id: UUID) -> Path:
    """The folder of a job's training checkpoints; it has one folder for each attempt."""
    return storage / FOLDER / str(job_id)


def delete_finished_checkpoints(storage: Path, sessions: sessionmaker[Session]) -> None:
    """Delete the training checkpoints of jobs that have ended."""
    folders = {UUID(folder.name): folder for folder in (storage / FOLDER).glob("*-*-*-*-*")}
    if not folders:
        return
    with sessions.begin() as session:
        needed = unfinished_jobs(session, folders.keys())
    for job_id in folders.keys() - needed:
        shutil.rmtree(folders[job_id], ignore_errors=True)
