"""Cleanup: deletion of what is no longer needed, and the room that is left.

It needs no torch: the worker's parent process and the beat run it.
"""

import shutil
from pathlib import Path
from uuid import UUID

from sqlalchemy.orm import Session, sessionmaker

from ledger.events.deliveries import delete_expired_deliveries
from ledger.jobs.checkpoints import unfinished_jobs
from ledger.jobs.heartbeats import STORAGE, record_heartbeat
from ledger.requests.uploads import delete_expired_uploads

FOLDER = "checkpoints"


def folder_of(storage: Path, job_id: UUID) -> Path:
    """Return the folder of a job's training checkpoints; it has one folder for each attempt."""
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


def record_storage_room(storage: Path, sessions: sessionmaker[Session]) -> None:
    """Record how many bytes of the storage's file system are free."""
    room = shutil.disk_usage(storage)
    with sessions.begin() as session:
        record_heartbeat(session, STORAGE, {"free": room.free, "size": room.total})


def delete_expired_rows(sessions: sessionmaker[Session]) -> None:
    """Delete uploads and delivery logs whose retention has ended, each in a transaction of its own."""
    for delete in (delete_expired_uploads, delete_expired_deliveries):
        with sessions.begin() as session:
            delete(session)
