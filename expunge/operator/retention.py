"""What a deployment keeps: delete old weights, unused files and links from a person to the log; go on after a restore."""

import time
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from uuid import UUID

from sqlalchemy import func, select

from expunge.errors import RestoreRefused
from expunge.operator.deployment import Deployment, open_database
from ledger.errors import UnknownEntry
from ledger.registry.access import ensure_tenant
from ledger.registry.retention import SupersededVersion, list_superseded, mark_purged, needed_files
from ledger.sample_ids import sample_digest
from ledger.tables import Event
from ledger.transparency import commitments
from ledger.transparency.log import begin_new_origin, erase_opening
from verifier.log import TreeHead

UNUSED_FILE_AGE = timedelta(days=1)
"""A newer file that no version names may belong to a version that is being published now."""


@dataclass(frozen=True, slots=True)
class Purgeable:
    """What a purge deletes: the weights of superseded versions, and files in the storage that no version needs."""

    versions: list[SupersededVersion]
    unused_files: list[Path]


def find_purgeable(deployment: Deployment, *, older_than: timedelta) -> Purgeable:
    """List what a purge would delete; change nothing.

    older_than: how long ago the next version followed. Superseded weights still know the samples that it was made to forget.
    """
    with open_database(deployment.database_url) as sessions, sessions() as session:
        unused = find_unused_files(deployment.storage, needed_files(session))
        return Purgeable(list_superseded(session, older_than=older_than), list(unused))


def purge(deployment: Deployment, purgeable: Purgeable, *, older_than: timedelta) -> list[Path]:
    """Delete what `find_purgeable` listed if it still may be deleted, and return the deleted files.

    The ledger is updated first. A crash after that leaves a file that the next purge deletes as unused.
    """
    chosen = [version.version_id for version in purgeable.versions]
    with open_database(deployment.database_url) as sessions:
        with sessions.begin() as session:
            files = [deployment.storage / name for name in mark_purged(session, chosen, older_than=older_than)]
        with sessions() as session:
            files += find_unused_files(deployment.storage, needed_files(session))
    deleted = [path for path in dict.fromkeys(files) if path.exists()]
    for path in deleted:
        path.unlink(missing_ok=True)
    return deleted


def find_unused_files(storage: Path, needed: set[str]) -> Iterator[Path]:
    """Find files a day old or older that no version needs: weights that were never published, half-written files."""
    for path in sorted([*storage.glob("*.safetensors"), *storage.glob(".writing-*")]):
        if path.name not in needed and time.time() - path.stat().st_mtime > UNUSED_FILE_AGE.total_seconds():
            yield path


def unlink_sample(
    deployment: Deployment, *, tenant: str, dataset: str, sample_id: str, requests: Collection[UUID] = ()
) -> tuple[int, int]:
    """Erase what links a sample to the commitments of jobs, and the given requests to the log.

    Returns how many leaves and how many log entries lost their link. Roots, proofs and log checkpoints stay valid.
    """
    digest = sample_digest(deployment.sample_key, dataset, sample_id)
    with open_database(deployment.database_url) as sessions, sessions.begin() as session:
        tenant_id = ensure_tenant(session, tenant)
        leaves = commitments.unlink_sample(session, tenant_id=tenant_id, digest=digest)
        entries = sum(erase_opening(session, tenant_id=tenant_id, subject_id=request) for request in requests)
        return leaves, entries


@dataclass(frozen=True, slots=True, kw_only=True)
class Restored:
    """A restored ledger: the log's heads under its old and its new name, and the time of its last event."""

    before: TreeHead
    after: TreeHead
    ends_at: datetime | None


def begin_restored_log(database_url: str) -> Restored:
    """Give the log of a database that was restored from a backup a new name. Raises RestoreRefused if the log is empty."""
    with open_database(database_url) as sessions, sessions.begin() as session:
        try:
            before, after = begin_new_origin(session)
        except UnknownEntry as error:
            raise RestoreRefused(f"Nothing was changed: {error}.") from error
        return Restored(before=before, after=after, ends_at=session.scalar(select(func.max(Event.at))))
