"""Uploads of lists of samples or people: millions of digests, streamed into PostgreSQL with COPY and never in memory as a whole."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from uuid import UUID, uuid4

from psycopg import Connection, Copy
from sqlalchemy import delete, func, literal, select, text
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from ledger import resources
from ledger.db import allow_long_statements
from ledger.errors import EmptyUpload, UnknownUpload
from ledger.registry.datasets import MAX_UNMATCHED_LINES, commit_to_digests, find_dataset
from ledger.states import SampleOutcome
from ledger.tables import Dataset, Upload
from ledger.tables.samples import request_samples, request_subjects, uploaded_samples

UPLOAD_RETENTION = timedelta(days=7)
"""How long an upload can be used. Requests copy its samples."""


@contextmanager
def receive_digests(session: Session) -> Iterator[Copy]:
    """Open a COPY of digests into a temporary table of this transaction. Call `store_upload` when all are sent."""
    allow_long_statements(session)
    columns = "digest bytea NOT NULL, line bigint NOT NULL, commitment bytea"
    session.execute(text(f"CREATE TEMPORARY TABLE incoming ({columns}) ON COMMIT DROP"))
    driver = session.connection().connection.driver_connection
    assert isinstance(driver, Connection)
    with driver.cursor() as cursor, cursor.copy("COPY incoming (digest, line, commitment) FROM STDIN") as copy:
        yield copy


def send_digests(copy: Copy, received: Iterable[tuple[bytes, int]]) -> None:
    """Write digests of samples to the COPY, each with the number of its line."""
    copy.write("".join(f"\\\\x{digest.hex()}\t{line}\t\\N\n" for digest, line in received))


def send_subjects(copy: Copy, received: Iterable[tuple[bytes, int, bytes]]) -> None:
    """Write digests of subjects to the COPY, each with the number of its line and the sealed commitment."""
    lines = (f"\\\\x{digest.hex()}\t{line}\t\\\\x{sealed.hex()}\n" for digest, line, sealed in received)
    copy.write("".join(lines))


def store_upload(session: Session, *, tenant_id: UUID, dataset: str | None) -> resources.Upload:
    """Store the received digests as an upload, each once with its first line: of samples of the dataset, or for None of people.

    Raises UnknownDataset, EmptyUpload.
    """
    of = None if dataset is None else find_dataset(session, tenant_id=tenant_id, name=dataset)
    upload_id = uuid4()
    # A subject has one commitment.
    received = text("SELECT digest, min(line) AS line, commitment FROM incoming GROUP BY digest, commitment")
    kept = uploaded_samples.c
    given = received.columns(kept.digest, kept.line, kept.commitment).subquery()
    # In sorted order: an index filled in order is faster to write, and smaller.
    rows = select(literal(upload_id), *given.c).order_by(given.c.digest)
    added = insert(uploaded_samples).from_select(["upload_id", *given.c.keys()], rows)
    count = session.connection().execute(added, execution_options={"preserve_rowcount": True}).rowcount
    if not count:
        raise EmptyUpload(f"the uploaded list holds no {'subject' if of is None else 'sample ID'}")
    upload = Upload(
        id=upload_id,
        tenant_id=tenant_id,
        dataset_id=None if of is None else of.id,
        samples=count,
        sha256=commit_to_upload(session, upload_id),
    )
    session.add(upload)
    session.flush()
    return _to_upload(session, upload)


def commit_to_upload(session: Session, upload_id: UUID) -> str:
    """Commit to an upload: the SHA-256 (hex) of its sorted digests."""
    uploaded = uploaded_samples.c
    return commit_to_digests(session, uploaded.digest, uploaded.upload_id == upload_id)


def get_upload(session: Session, *, tenant_id: UUID, upload_id: UUID) -> resources.Upload:
    """Read one upload. Raises UnknownUpload."""
    return _to_upload(session, find_upload(session, tenant_id=tenant_id, upload_id=upload_id))


def find_upload(session: Session, *, tenant_id: UUID, upload_id: UUID) -> Upload:
    """Find the row of a tenant's upload that has not expired. Raises UnknownUpload."""
    upload = session.scalar(
        select(Upload).where(
            Upload.id == upload_id,
            Upload.tenant_id == tenant_id,
            Upload.created_at > func.clock_timestamp() - UPLOAD_RETENTION,
        )
    )
    if upload is None:
        raise UnknownUpload(f"there is no upload {upload_id}; uploads are kept for {UPLOAD_RETENTION.days} days")
    return upload


def unmatched_lines(session: Session, *, upload_id: UUID, request_id: UUID) -> list[int] | None:
    """List the first MAX_UNMATCHED_LINES lines of an upload that match nothing in the request, in order; None if it is deleted.

    That is a sample that no model of the request was trained on, or a person without samples in its datasets.
    """
    upload = session.get(Upload, upload_id, populate_existing=True)
    if upload is None:
        return None
    allow_long_statements(session)
    of_samples = (
        select(uploaded_samples.c.line)
        .join(request_samples, request_samples.c.digest == uploaded_samples.c.digest)
        .where(
            request_samples.c.request_id == request_id,
            request_samples.c.outcome == SampleOutcome.NOT_IN_TRAINING_SET,
        )
    )
    of_people = (
        select(uploaded_samples.c.line)
        .join(request_subjects, request_subjects.c.subject == uploaded_samples.c.digest)
        .where(request_subjects.c.request_id == request_id, request_subjects.c.samples == 0)
    )
    lines = (of_people if upload.dataset_id is None else of_samples).where(
        uploaded_samples.c.upload_id == upload_id, uploaded_samples.c.line.is_not(None)
    )
    return list(session.scalars(lines.order_by(uploaded_samples.c.line).limit(MAX_UNMATCHED_LINES)))


def delete_upload(session: Session, *, tenant_id: UUID, upload_id: UUID) -> None:
    """Delete an upload. Requests that were made with it stay. Raises UnknownUpload."""
    _delete(session, find_upload(session, tenant_id=tenant_id, upload_id=upload_id).id)


def delete_expired_uploads(session: Session) -> None:
    """Delete the uploads that are older than UPLOAD_RETENTION."""
    old = select(Upload.id).where(Upload.created_at <= func.clock_timestamp() - UPLOAD_RETENTION)
    for upload_id in session.scalars(old.with_for_update(skip_locked=True)).all():
        _delete(session, upload_id)


def _delete(session: Session, upload_id: UUID) -> None:
    allow_long_statements(session)
    session.execute(delete(Upload).where(Upload.id == upload_id))
    session.execute(delete(uploaded_samples).where(uploaded_samples.c.upload_id == upload_id))


def _to_upload(session: Session, upload: Upload) -> resources.Upload:
    of_people = upload.dataset_id is None
    return resources.Upload(
        id=upload.id,
        dataset=None if of_people else session.get_one(Dataset, upload.dataset_id).name,
        samples=None if of_people else upload.samples,
        subjects=upload.samples if of_people else None,
        sha256=upload.sha256,
        created_at=upload.created_at,
        expires_at=upload.created_at + UPLOAD_RETENTION,
    )
