"""`expunge purge`: weights of superseded versions, which still know whom a later one has forgotten, and files left lying about."""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from expunge.operator.registration import Place, opened
from ledger.registry.retention import SupersededVersion, list_superseded, mark_purged, needed_files

DAY = timedelta(days=1)
"""A file that no row names may be of a publication that goes on right now; after a day it is not."""


@dataclass(frozen=True, slots=True)
class Going:
    """What a purge deletes: superseded versions, and files of the storage that no version needs."""

    versions: list[SupersededVersion]
    litter: list[Path]


def look(where: Place, *, older_than: timedelta) -> Going:
    """Find what would go; nothing is changed."""
    with opened(where.database_url) as sessions, sessions() as session:
        return Going(list_superseded(session, older_than=older_than), [*litter(where.storage, needed_files(session))])


def purge(where: Place, going: Going, *, older_than: timedelta) -> list[Path]:
    """Delete what was found, where that still holds, and give the deleted files.

    The ledger first: a file that is still there after a crash in between is litter for the next purge.
    """
    chosen = [version.version_id for version in going.versions]
    with opened(where.database_url) as sessions:
        with sessions.begin() as session:
            files = [where.storage / name for name in mark_purged(session, chosen, older_than=older_than)]
        with sessions() as session:
            files += litter(where.storage, needed_files(session))
    deleted = [path for path in dict.fromkeys(files) if path.exists()]
    for path in deleted:
        path.unlink(missing_ok=True)
    return deleted


def litter(storage: Path, needed: set[str]) -> Iterator[Path]:
    """The storage's files that no version needs, a day old or older: weights that were never published, halves of files."""
    for path in sorted([*storage.glob("*.safetensors"), *storage.glob(".writing-*")]):
        if path.name not in needed and time.time() - path.stat().st_mtime > DAY.total_seconds():
            yield path
