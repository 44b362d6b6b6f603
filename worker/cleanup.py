"""Cleanup: deletion of what is no longer needed, and the room that is left.

It needs no torch: the worker's parent process and the beat run it.
"""

from datetime import UTC, datetime, timedelta
from uuid import UUID

from sqlalchemy.orm import Session, sessionmaker

from connectors.storage import Storage, delete_all
from ledger.events.hand_overs import delete_expired_messages
from ledger.events.webhooks import delete_expired_deliveries
from ledger.jobs.checkpoints import unfinished_jobs
from ledger.jobs.workers import STORAGE, record_heartbeat
from ledger.registry.retention import list_outdated, mark_deleted, needed_files
from ledger.requests.idempotency import delete_expired_keys
from ledger.requests.uploads import delete_expired_uploads

FOLDER = "checkpoints"
SHEETS = "sheets"
"""The folder of operators' sheets in the storage; it has one for each report."""


def folder_of(job_id: UUID) -> str:
    """Return the folder of a job's training checkpoints in the storage; it has one folder for each attempt."""
    return f"{FOLDER}/{job_id}"


def delete_finished_checkpoints(storage: Storage, sessions: sessionmaker[Session]) -> None:
    """Delete the training checkpoints of jobs that have ended. What else lies in their folder stays."""
    saved = {job_id for file in storage.list_files(FOLDER) if (job_id := _job_of(file.name)) is not None}
    if not saved:
        return
    with sessions.begin() as session:
        needed = unfinished_jobs(session, saved)
    delete_all(storage.delete_folder, map(folder_of, saved - needed))


def _job_of(name: str) -> UUID | None:
    try:
        return UUID(name.split("/")[1])
    except ValueError:
        return None


def delete_expired_sheets(storage: Storage, *, older_than: timedelta) -> None:
    """Delete operators' sheets of that age, all of them where none are kept: they may show people who were erased."""
    now = datetime.now(UTC)
    expired = [file.name for file in storage.list_files(SHEETS) if now - file.changed_at >= older_than]
    delete_all(storage.delete, expired)


def delete_outdated_files(storage: Storage, sessions: sessionmaker[Session]) -> None:
    """Delete the files that versions have replaced: they know people who were erased."""
    with sessions.begin() as session:
        outdated = list_outdated(session)
        needed = needed_files(session) if outdated else set()
    if not outdated:
        return
    delete_all(storage.delete, {name for names in outdated.values() for name in names} - needed)
    with sessions.begin() as session:
        mark_deleted(session, outdated)


def record_storage_room(storage: Storage, sessions: sessionmaker[Session]) -> None:
    """Record how many bytes of the storage's file system are free, where it has one."""
    room = storage.free_bytes()
    if room is not None:
        free, size = room
        with sessions.begin() as session:
            record_heartbeat(session, STORAGE, {"free": free, "size": size})


def delete_expired_rows(sessions: sessionmaker[Session]) -> None:
    """Delete idempotency keys, uploads, delivery logs and messages whose retention has ended, each in a transaction of its own."""
    for delete in (delete_expired_keys, delete_expired_uploads, delete_expired_deliveries, delete_expired_messages):
        with sessions.begin() as session:
            delete(session)
