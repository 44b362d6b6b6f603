"""Uploaded manifests: digests by the million, streamed into PostgreSQL with COPY, never as a whole in this process."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID, uuid4

from psycopg import Connection, Copy
from sqlalchemy import delete, func, literal, select, text
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from ledger.errors import EmptyUpload, UnknownUpload
from ledger.registry.datasets import find_dataset
from ledger.sample_ids import joined_sha256
from ledger.tables import Dataset, Upload
from ledger.tables.requests import uploaded_samples

UPLOAD_RETENTION = timedelta(days=7)
"""How long an uploaded manifest can be used. What a request asked with it, the request keeps itself."""

CHUNK = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class UploadView:
    """An uploaded manifest; `sha256` is of its sorted digests (`ledger.sample_ids.samples_sha256`)."""

    id: UUID
    dataset: str
    samples: int
    sha256: str
    created_at: datetime
    expires_at: datetime


@contextmanager
def receive_digests(session: Session) -> Iterator[Copy]:
    """Open the way for digests into a table of this transaction's own; `store_upload` follows once all are there."""
    session.execute(text("CREATE TEMPORARY TABLE incoming (digest bytea NOT NULL) ON COMMIT DROP"))
    driver = session.connection().connection.driver_connection
    assert isinstance(driver, Connection)
    with driver.cursor() as cursor, cursor.copy("COPY incoming (digest) FROM STDIN") as copy:
        yield copy


def send_digests(copy: Copy, digests: Iterable[bytes]) -> None:
    """Send some digests on."""
    copy.write("".join(f"\\\\x{digest.hex()}\n" for digest in digests))


def store_upload(session: Session, *, tenant_id: UUID, dataset: str) -> UploadView:
    """Make what was received a manifest, each sample once. Raises UnknownDataset, EmptyUpload."""
    of = find_dataset(session, tenant_id=tenant_id, name=dataset)
    manifest_id = uuid4()
    given = text("SELECT DISTINCT digest FROM incoming ORDER BY digest").columns(uploaded_samples.c.digest).subquery()
    # In their order: an index that is filled from end to end is quicker and smaller.
    rows = select(literal(manifest_id), given.c.digest).order_by(given.c.digest)
    added = insert(uploaded_samples).from_select(["manifest_id", "digest"], rows)
    count = session.connection().execute(added, execution_options={"preserve_rowcount": True}).rowcount
    if not count:
        raise EmptyUpload("the manifest holds no sample ID")
    manifest = Upload(
        id=manifest_id, tenant_id=tenant_id, dataset_id=of.id, samples=count, sha256=_commitment(session, manifest_id)
    )
    session.add(manifest)
    session.flush()
    return _view(session, manifest)


def _commitment(session: Session, manifest_id: UUID) -> str:
    mine = select(uploaded_samples.c.digest).where(uploaded_samples.c.manifest_id == manifest_id)
    return joined_sha256(session.scalars(mine.order_by(uploaded_samples.c.digest).execution_options(yield_per=CHUNK)))


def get_upload(session: Session, *, tenant_id: UUID, manifest_id: UUID) -> UploadView:
    """One uploaded manifest. Raises UnknownUpload."""
    return _view(session, find_upload(session, tenant_id=tenant_id, manifest_id=manifest_id))


def find_upload(session: Session, *, tenant_id: UUID, manifest_id: UUID) -> Upload:
    """The row of a tenant's manifest that has not expired. Raises UnknownUpload."""
    manifest = session.scalar(
        select(Upload).where(
            Upload.id == manifest_id,
            Upload.tenant_id == tenant_id,
            Upload.created_at > func.clock_timestamp() - UPLOAD_RETENTION,
        )
    )
    if manifest is None:
        raise UnknownUpload(f"there is no manifest {manifest_id}; one is kept for {UPLOAD_RETENTION.days} days")
    return manifest


def delete_upload(session: Session, *, tenant_id: UUID, manifest_id: UUID) -> None:
    """Delete an uploaded manifest; requests that were made with it stay. Raises UnknownUpload."""
    _delete(session, find_upload(session, tenant_id=tenant_id, manifest_id=manifest_id).id)


def delete_expired_uploads(session: Session) -> None:
    """Delete the manifests that are older than they are kept."""
    old = select(Upload.id).where(Upload.created_at <= func.clock_timestamp() - UPLOAD_RETENTION)
    for manifest_id in session.scalars(old.with_for_update(skip_locked=True)).all():
        _delete(session, manifest_id)


def _delete(session: Session, manifest_id: UUID) -> None:
    session.execute(delete(uploaded_samples).where(uploaded_samples.c.manifest_id == manifest_id))
    session.execute(delete(Upload).where(Upload.id == manifest_id))


def _view(session: Session, manifest: Upload) -> UploadView:
    return UploadView(
        id=manifest.id,
        dataset=session.get_one(Dataset, manifest.dataset_id).name,
        samples=manifest.samples,
        sha256=manifest.sha256,
        created_at=manifest.created_at,
        expires_at=manifest.created_at + UPLOAD_RETENTION,
    )
