"""What a deployment keeps: delete old weights and their copies, unused files, and links from a person to the log; go on after a
restore.
"""

from collections.abc import Collection, Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import PurePosixPath
from uuid import UUID

from sqlalchemy import func, select

from connectors.storage import Storage, StorageError, delete_each
from expunge.errors import CopiesRefused, NoSheet, RestoreRefused, explain
from expunge.operator.deployment import Deployment, open_database, open_ledger
from ledger.errors import Refused, UnknownEntry
from ledger.registry.access import ensure_tenant
from ledger.registry.retention import (
    SupersededVersion,
    VersionCopies,
    list_copies,
    list_superseded,
    mark_purged,
    needed_files,
)
from ledger.sample_ids import sample_digest, subject_digest
from ledger.tables import Event
from ledger.transparency import commitments
from ledger.transparency.log import begin_new_origin, erase_opening
from report.sheet import InvalidSheet, Sheet, from_bytes
from unlearning.errors import WeightsDamaged, WeightsMissing
from unlearning.files import read_file
from verifier.log import TreeHead
from worker.cleanup import SHEETS

UNUSED_FILE_AGE = timedelta(days=1)
"""A newer file that no version names may belong to a version that is being published now."""

NO_AGE = timedelta(0)


@dataclass(frozen=True, slots=True)
class Purgeable:
    """What a purge deletes: the weights of superseded versions, and files in the storage that no version needs."""

    versions: list[SupersededVersion]
    unused_files: list[str]


@dataclass(frozen=True, slots=True)
class Kept:
    """The deleted files that the storage keeps by soft delete, by name with the time at which they are gone at the latest.

    unknown: why they could not be listed.
    """

    files: dict[str, datetime] = field(default_factory=dict)
    unknown: str | None = None


@dataclass(frozen=True, slots=True)
class Purged:
    """What a purge has deleted: the files, how many versions of them the storage had in all, and uploads that never ended.

    kept: what the storage keeps by soft delete. failed: a sentence for each file that the storage does not let go.
    """

    files: list[str]
    versions: int
    unfinished: int
    kept: Kept
    failed: list[str]

    @property
    def outcome(self) -> str:
        """Say what is gone, and what is not yet."""
        versions = f" with {self.versions} versions" if self.versions > len(self.files) else ""
        deleted = f"Deleted {len(self.files)} files{versions}"
        if self.kept.unknown:
            return f"{deleted}. Whether soft delete keeps them is not known: {self.kept.unknown}"
        mine = [self.kept.files[name] for name in self.files if name in self.kept.files]
        if not mine:
            return f"{deleted}, and verified that they are gone."
        return (
            f"{deleted}, but soft delete keeps {len(mine)} of them until {max(mine):%Y-%m-%d %H:%M} UTC at the latest. Until then "
            "who has access to the bucket can restore them, and Expunge cannot delete them for good."
        )


def find_kept(storage: Storage) -> Kept:
    """List what soft delete keeps, or say why that is not known."""
    try:
        return Kept({found.name: found.until for found in storage.list_soft_deleted()})
    except StorageError as error:
        return Kept(unknown=str(error))


def find_purgeable(deployment: Deployment, *, older_than: timedelta) -> Purgeable:
    """List what a purge would delete; change nothing. Raises StorageError.

    older_than: how long ago the next version followed. Superseded weights still know the samples that it was made to forget.
    """
    with open_database(deployment.database_url) as sessions, sessions() as session:
        unused = find_unused_files(deployment.files, needed_files(session))
        return Purgeable(list_superseded(session, older_than=older_than), list(unused))


def purge(deployment: Deployment, purgeable: Purgeable, *, older_than: timedelta) -> Purged:
    """Delete what `find_purgeable` listed if it still may be deleted, and return what was deleted. Raises StorageError.

    The ledger is updated first. A crash after that leaves a file that the next purge deletes as unused. A file that the storage
    does not let go, as under a legal hold, keeps no other one from being deleted.
    """
    chosen = [version.version_id for version in purgeable.versions]
    storage = deployment.files
    with open_database(deployment.database_url) as sessions:
        with sessions.begin() as session:
            names = mark_purged(session, chosen, older_than=older_than)
        with sessions() as session:
            names += find_unused_files(storage, needed_files(session))
    deleted, failed = delete_each(storage.delete, names)
    files = [name for name, versions in deleted.items() if versions]
    unfinished = storage.delete_unfinished(older_than=UNUSED_FILE_AGE)
    return Purged(
        files, sum(deleted.values()), unfinished, find_kept(storage) if files else Kept(), list(map(explain, failed))
    )


def find_unused_files(storage: Storage, needed: set[str]) -> Iterator[str]:
    """Find files a day old or older that no version needs: weights that were never published, half-written files.

    The storage is Expunge's own, so nothing is spared, whatever lies beside it: a purge that was killed has left weights of people
    who were erased, and nobody would delete them. `expunge train` refuses to write there.
    """
    for file in storage.list_files():
        is_old = datetime.now(UTC) - file.changed_at > UNUSED_FILE_AGE
        is_own = file.name.endswith(".safetensors") or file.name.startswith(".writing-")
        if "/" not in file.name and is_own and is_old and file.name not in needed:
            yield file.name


def read_sheet(deployment: Deployment, report_id: UUID) -> Sheet:
    """Read the operator's sheet of a report. Raises NoSheet if there is none or it cannot be read, and StorageError."""
    storage, folder = deployment.files, f"{SHEETS}/{report_id}"
    stored = next(iter(storage.list_files(folder)), None)
    if stored is None:
        raise NoSheet(
            f"There is no sheet of the report {report_id}. Workers keep them for EXPUNGE_SHEET_DAYS, of models that generate "
            "images or texts; by default they keep none."
        )
    sha256 = PurePosixPath(stored.name).stem
    try:
        return from_bytes(read_file(storage.fetch(stored.name, sha256), sha256))
    except (InvalidSheet, WeightsDamaged, WeightsMissing) as error:
        raise NoSheet(f"The sheet of the report {report_id} cannot be read: {error}.") from error


def unlink(
    deployment: Deployment,
    *,
    tenant: str,
    dataset: str = "",
    sample_id: str | None = None,
    subject: str | None = None,
    requests: Collection[UUID] = (),
) -> tuple[int, int]:
    """Erase what links a sample of a dataset, or a person, to the commitments of jobs, and the given requests to the log.

    Returns how many leaves and how many log entries lost their link. Roots, proofs and log checkpoints stay valid.
    """
    key = deployment.sample_key
    with open_ledger(deployment) as session:
        tenant_id = ensure_tenant(session, tenant)
        leaves = 0
        if sample_id is not None:
            digest = sample_digest(key, dataset, sample_id)
            leaves += commitments.unlink_sample(session, tenant_id=tenant_id, digest=digest)
        if subject is not None:
            leaves += commitments.unlink_subject(session, tenant_id=tenant_id, subject=subject_digest(key, subject))
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


@dataclass(frozen=True, slots=True)
class Offboarding:
    """A model's versions with their copies, and which of the weights that know erased people Expunge may delete now.

    undeleted: files that are still in the storage although no version needs them, because a purge broke off. kept: deleted files
    that soft delete keeps.
    """

    versions: list[VersionCopies]
    deletable: Purgeable
    undeleted: frozenset[str] = frozenset()
    kept: Kept = Kept()

    @property
    def left(self) -> list[str]:
        """What the operator has to do: a sentence for each copy that knows erased people and that Expunge cannot delete."""
        found = [sentence for version in self.versions if version.knows for sentence in self._left_of(version)]
        if self.kept.unknown:
            found.append(f"Whether soft delete keeps purged files is not known: {self.kept.unknown}")
        return found

    def _left_of(self, version: VersionCopies) -> Iterator[str]:
        number, path = version.number, version.weights_path
        if version.purged_at is None:
            if version.version_id not in {each.version_id for each in self.deletable.versions}:
                yield f"Version {number} is needed by a job, or may still be served. Wait for its job's end."
        elif path in self.undeleted:
            yield (
                f"Version {number} was purged, but its file {path} is still in the storage, because the deletion broke off. Run "
                "this command with --delete once the file is a day old."
            )
        elif version.stored:
            yield (
                f"Version {number} was purged, but another version has the same file {path}. It is deleted once no version needs "
                "it."
            )
        elif path in self.kept.files:
            yield (
                f"Version {number} was purged, but soft delete keeps its file {path} until "
                f"{self.kept.files[path]:%Y-%m-%d %H:%M} UTC at the latest. Let nobody restore it."
            )
        for handed in version.handed:
            if not handed.is_gone:
                place = f" ({handed.place})" if handed.place else ""
                yield f"Version {number} may be at {handed.connector}{place}: {handed.state}. Delete it there."
        for fetched in version.fetched:
            yield (
                f"Version {number} was fetched with the key {fetched.key} ({fetched.name}), last on "
                f"{fetched.last:%Y-%m-%d %H:%M} UTC. Ask its owner to delete it."
            )


def find_copies(deployment: Deployment, *, model: str, tenant: str = "default") -> Offboarding:
    """List a model's copies; change nothing. Raises CopiesRefused."""
    try:
        with open_database(deployment.database_url) as sessions, sessions.begin() as session:
            versions = list_copies(session, tenant_id=ensure_tenant(session, tenant), model=model)
            knowing = {version.version_id for version in versions if version.knows}
            superseded = list_superseded(session, older_than=NO_AGE)
    except Refused as error:
        raise CopiesRefused(f"{error}.") from error
    gone = {version.weights_path for version in versions if not version.stored}
    try:
        there = {file.name for file in deployment.files.list_files()} if gone else set()
    except OSError as error:
        raise CopiesRefused(
            f"Whether purged files are gone is not known: the storage cannot be listed. {error}"
        ) from error
    found = [replace(version, stored=version.stored or version.weights_path in there) for version in versions]
    deletable = Purgeable([each for each in superseded if each.version_id in knowing], [])
    return Offboarding(
        found, deletable, frozenset(gone & there), find_kept(deployment.files) if gone - there else Kept()
    )


def delete_copies(deployment: Deployment, found: Offboarding) -> Purged:
    """Delete the weights that know erased people, with all versions in the storage. Systems that can delete follow by the beat."""
    return purge(deployment, found.deletable, older_than=NO_AGE)
