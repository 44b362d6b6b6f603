"""Subjects: which samples of a dataset belong to which person. Millions of rows are streamed in with COPY, all or nothing."""

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice
from uuid import UUID

from psycopg import Connection
from sqlalchemy import column, delete, func, literal, select, table, text
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from ledger.db import allow_long_statements
from ledger.errors import SamplesNotInDataset
from ledger.registry.datasets import MAX_UNMATCHED_LINES, find_dataset
from ledger.tables import Dataset
from ledger.tables.samples import samples, subject_samples

CHUNK = 10_000
"""Rows that are in memory at a time."""

_incoming = table("incoming_subjects", column("subject"), column("digest"), column("line"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Assignment:
    """What came of assigning samples to their subjects.

    lines: how many there were. added: pairs of a subject and a sample that are new. subjects: how many people the dataset knows
    now. unmatched: how many lines name a sample that the dataset does not have; unmatched_lines: the numbers of the first of them.
    """

    lines: int
    added: int
    subjects: int
    unmatched: int
    unmatched_lines: tuple[int, ...]


def assign_subjects(
    session: Session,
    *,
    tenant_id: UUID,
    dataset: str,
    rows: Iterable[tuple[bytes, bytes, int]],
    replace: bool = False,
) -> Assignment:
    """Assign samples of a dataset to their subjects, beside those that are assigned already, or with `replace` in place of them.

    rows: the subject's digest, the sample's digest, and the number of the line that they stand on. They are streamed. A sample may
    have several subjects. One transaction: if `rows` raises, nothing is written. Raises UnknownDataset, and SamplesNotInDataset if
    no row names a sample of the dataset and would replace everything by nothing.
    """
    find_dataset(session, tenant_id=tenant_id, name=dataset)
    allow_long_statements(session)
    lines = _receive(session, rows)
    # The lock is taken only now: `rows` may be as slow as whoever types them.
    mine = select(Dataset).where(Dataset.tenant_id == tenant_id, Dataset.name == dataset)
    of = session.scalars(mine.with_for_update(key_share=True).execution_options(populate_existing=True)).one()
    if replace:
        session.execute(delete(subject_samples).where(subject_samples.c.dataset_id == of.id))
    matched = (
        select(_incoming.c.subject, literal(of.id).label("dataset_id"), _incoming.c.digest)
        .join(samples, (samples.c.dataset_id == of.id) & (samples.c.digest == _incoming.c.digest))
        .distinct()
    )
    # In sorted order: an index filled in order is faster to write, and smaller.
    ordered = matched.order_by(_incoming.c.subject, _incoming.c.digest)
    added = insert(subject_samples).from_select(["subject", "dataset_id", "digest"], ordered).on_conflict_do_nothing()
    count = session.connection().execute(added, execution_options={"preserve_rowcount": True}).rowcount
    session.execute(text("ANALYZE subject_samples"))  # requests come at once, and would be planned for an empty table
    people = select(subject_samples.c.subject).where(subject_samples.c.dataset_id == of.id).distinct().subquery()
    of.subject_count = session.scalars(select(func.count()).select_from(people)).one()
    unmatched, unmatched_lines = _unmatched(session, of.id)
    if replace and unmatched == lines:
        raise SamplesNotInDataset(
            f"none of the {lines} lines names a sample of the dataset {dataset!r}, so they replace nothing; what was assigned stays"
        )
    session.execute(text("DROP TABLE incoming_subjects"))
    session.flush()
    return Assignment(
        lines=lines, added=count, subjects=of.subject_count, unmatched=unmatched, unmatched_lines=unmatched_lines
    )


def _receive(session: Session, rows: Iterable[tuple[bytes, bytes, int]]) -> int:
    """Copy the rows into a temporary table of this transaction, and count them."""
    session.execute(
        text(
            "CREATE TEMPORARY TABLE incoming_subjects (subject bytea NOT NULL, digest bytea NOT NULL, line bigint NOT NULL) "
            "ON COMMIT DROP"
        )
    )
    driver = session.connection().connection.driver_connection
    assert isinstance(driver, Connection)
    given, count = iter(rows), 0
    with driver.cursor() as cursor, cursor.copy("COPY incoming_subjects (subject, digest, line) FROM STDIN") as copy:
        while some := list(islice(given, CHUNK)):
            copy.write(
                "".join(f"\\\\x{subject.hex()}\t\\\\x{sample.hex()}\t{line}\n" for subject, sample, line in some)
            )
            count += len(some)
    # Without them a join may be planned as a loop over this table for each sample of the dataset.
    session.execute(text("CREATE INDEX ON incoming_subjects (digest)"))
    session.execute(text("ANALYZE incoming_subjects"))
    return count


def _unmatched(session: Session, dataset_id: UUID) -> tuple[int, tuple[int, ...]]:
    """Count the lines whose sample the dataset does not have, and list the first MAX_UNMATCHED_LINES of them."""
    known = select(samples.c.digest).where(samples.c.dataset_id == dataset_id, samples.c.digest == _incoming.c.digest)
    lines = select(_incoming.c.line).where(~known.exists())
    count = session.scalars(select(func.count()).select_from(lines.subquery())).one()
    listed = lines.order_by(_incoming.c.line).limit(MAX_UNMATCHED_LINES)
    return count, tuple(session.scalars(listed)) if count else ()
