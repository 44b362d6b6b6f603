"""Where the checkpoints of jobs lie, and how they go once their jobs have ended. It needs no torch, so that a sweep needs none."""

import shutil
from pathlib import Path
from uuid import UUID

from sqlalchemy.orm import Session, sessionmaker

from ledger.checkpoints import unfinished

FOLDER = "checkpoints"


def folder_of(storage: Path, job_id: UUID) -> Path:
    """The folder of a job's checkpoints, with one folder an attempt."""
    return storage / FOLDER / str(job_id)


def tidy(storage: Path, sessions: sessionmaker[Session]) -> None:
    """Remove the checkpoints of jobs that have ended."""
    folders = {UUID(folder.name): folder for folder in (storage / FOLDER).glob("*-*-*-*-*")}
    if not folders:
        return
    with sessions.begin() as session:
        needed = unfinished(session, folders.keys())
    for job_id in folders.keys() - needed:
        shutil.rmtree(folders[job_id], ignore_errors=True)
