"""The key of the hashes: which one the ledger is under, and the rotation that hashes everything on to the next key.

Nobody needs the IDs for that: the new hash of a sample is the hash of its old one (`ledger.sample_ids.rehash`).
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from psycopg import Connection
from sqlalchemy import Column, LargeBinary, Select, Table, func, select, text
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from ledger.db import allow_long_statements
from ledger.errors import ModelBusy, WrongSampleKey
from ledger.registry.references import ReferenceFile
from ledger.registry.retention import held_references, hold_references, holding_references
from ledger.requests.uploads import commit_to_upload
from ledger.sample_ids import KEY_BYTES, key_fingerprint, rehash, seal
from ledger.states import LEASED
from ledger.tables import Base, IdempotencyKey, Job, ManagedRequest, Model, ReferenceSet, SampleKey, Upload
from ledger.tables.samples import SEALED_BESIDE, erased_samples, request_subjects, samples
from ledger.transparency.log import seal_openings

ROTATION_LOCK = 0x53414D504C45
"""The advisory lock of the key: shared by every transaction that hashes, exclusive for a rotation. Any number, the same for all."""

CHUNK = 20_000
"""Rows that are in memory at a time."""

LOCK_SECONDS = 30
"""Seconds to wait until others have finished what hashes, and with each table while they read it."""

HASHES = frozenset({"digest", "subject"})
"""Names of the columns that hold keyed hashes, in whatever table."""

Rewrite = Callable[[ReferenceFile, Callable[[bytes], bytes]], ReferenceFile | None]
"""Writes a file of reference predictions with each key hashed on by the given function; None if the file cannot be read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rotated:
    """What a rotation has hashed anew: rows, files of reference predictions, and the models whose file could not be read."""

    rows: int
    files: int
    unreadable: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Unmatchable:
    """What stays under a lost key: samples of data sets, those of them that models have erased, and people who asked."""

    samples: int
    erased: int
    people: int


def check_sample_key(session: Session, key: bytes) -> None:
    """Check that the ledger is under this key, and keep it so until the transaction ends. Raises WrongSampleKey.

    A ledger without samples takes any key.
    """
    session.execute(select(func.pg_advisory_xact_lock_shared(ROTATION_LOCK)))
    mine, known = key_fingerprint(key), read_fingerprint(session)
    if known == mine:
        return
    if known is None or session.scalar(select(samples.c.digest).limit(1)) is None:
        _take_key(session, key)
    else:
        raise WrongSampleKey(
            "the ledger is hashed under another sample key than this process has, so nothing was done; after `expunge "
            "rotate-sample-key` every process needs the new EXPUNGE_SAMPLE_KEY, and an interrupted rotation is run again"
        )


def _take_key(session: Session, key: bytes) -> None:
    taken = {"fingerprint": key_fingerprint(key), "changed_at": func.clock_timestamp()}
    made = insert(SampleKey).values(id=1, **taken)
    session.execute(made.on_conflict_do_update(index_elements=["id"], set_=taken))


def replace_lost_key(session: Session, key: bytes) -> Unmatchable:
    """Take `key` as the ledger's from now on, because the one that it is under is lost. Counts what is never matched again."""
    allow_long_statements(session)
    session.execute(select(func.pg_advisory_xact_lock(ROTATION_LOCK)))
    _take_key(session, key)
    return Unmatchable(
        samples=_count_hashes(session, samples.c.digest),
        erased=_count_hashes(session, erased_samples.c.digest),
        people=_count_hashes(session, request_subjects.c.subject),
    )


def _count_hashes(session: Session, column: Column[bytes]) -> int:
    return session.scalars(select(func.count()).select_from(select(column).distinct().subquery())).one()


def read_fingerprint(session: Session) -> str | None:
    """Read the fingerprint of the key that the ledger is under; None before anything was hashed."""
    return session.scalar(select(SampleKey.fingerprint))


def rotate_sample_key(session: Session, *, old: bytes, new: bytes, rewrite: Rewrite) -> Rotated | None:
    """Hash everything that is under `old` on to `new`, in the caller's transaction; None if the ledger is under `new` already.

    new: `old` and one more key. Other transactions that hash wait until this one ends. Rows are streamed; memory stays flat.
    Raises WrongSampleKey, ModelBusy while a worker runs a job, because it holds hashes under the old key, and OperationalError if
    others hold the ledger for more than LOCK_SECONDS.
    """
    if new[: len(old)] != old or len(new) != len(old) + KEY_BYTES:
        raise ValueError("the new key must be the old one and one more")
    later = new[len(old) :]
    allow_long_statements(session)
    session.execute(text(f"SET LOCAL lock_timeout = '{LOCK_SECONDS}s'"))
    session.execute(select(func.pg_advisory_xact_lock(ROTATION_LOCK)))
    known = read_fingerprint(session)
    if known == key_fingerprint(new):
        return None
    check_sample_key(session, old)
    # Before the tables, the rows that others change without hashing: whoever holds one may wait for a table next. Whoever
    # publishes or approves a version holds its model, and has read which references become the model's with it.
    session.scalars(select(Model.id).order_by(Model.id).with_for_update(key_share=True)).all()
    _rehash_bodies(session, later)
    seal_openings(session, old=old, new=new)
    lists = session.scalars(select(Upload).with_for_update()).all()
    session.execute(text(f"LOCK TABLE {', '.join(table.name for table in hashed_tables())} IN ACCESS EXCLUSIVE MODE"))
    running = select(Job.id).where(Job.state.in_(LEASED), Job.lease_until > func.clock_timestamp())
    if (job_id := session.scalar(running.limit(1))) is not None:
        raise ModelBusy(f"a worker runs the job {job_id}; stop the workers, or wait for its end")
    rows = sum(_rehash_table(session, table, old=old, new=new) for table in hashed_tables())
    for upload in lists:
        upload.sha256 = commit_to_upload(session, upload.id)
    files, unreadable = _rewrite_references(session, later, rewrite)
    _take_key(session, new)
    return Rotated(rows=rows, files=files, unreadable=tuple(unreadable))


def hashed_tables() -> list[Table]:
    """List the tables with keyed hashes of samples or subjects, by name."""
    tables = Base.metadata.tables.values()
    return sorted((table for table in tables if list(_hashed_columns(table))), key=lambda table: table.name)


def _hashed_columns(table: Table) -> Iterator[str]:
    for column in table.columns:
        if column.name in HASHES and isinstance(column.type, LargeBinary):
            yield column.name


def _rehash_table(session: Session, table: Table, *, old: bytes, new: bytes) -> int:
    """Write a table anew, in the order of its key: an index filled in order is faster to write, and smaller. Counts its rows."""
    names, count = ", ".join(column.name for column in table.columns), 0
    rehash_row = _make_rehash(table, old=old, new=new)
    driver = session.connection().connection.driver_connection
    assert isinstance(driver, Connection)
    with driver.cursor() as writing:
        writing.execute(f"CREATE TEMPORARY TABLE rehashed (LIKE {table.name}) ON COMMIT DROP")
        for rows in _read_rows(driver, f"SELECT {names} FROM {table.name}"):
            count += len(rows)
            with writing.copy(f"COPY rehashed ({names}) FROM STDIN") as copy:
                for row in rows:
                    copy.write_row(rehash_row(row))
        if count:
            order = ", ".join(column.name for column in table.primary_key.columns)
            writing.execute(f"TRUNCATE {table.name}")
            writing.execute(f"INSERT INTO {table.name} ({names}) SELECT {names} FROM rehashed ORDER BY {order}")
            writing.execute(f"ANALYZE {table.name}")
        writing.execute("DROP TABLE rehashed")
    return count


def _read_rows(driver: Connection[Any], query: str) -> Iterator[list[Any]]:
    """Read rows in chunks of CHUNK, through a server-side cursor."""
    with driver.cursor(name="rehashed", binary=True) as reading:
        reading.execute(query)
        while rows := reading.fetchmany(CHUNK):
            yield rows


def _make_rehash(table: Table, *, old: bytes, new: bytes) -> Callable[[Sequence[Any]], list[Any]]:
    """Make what hashes a row on, and seals under the new key what is sealed. Salts from before they were sealed are sealed now."""
    places = {column.name: place for place, column in enumerate(table.columns)}
    hashes = [places[name] for name in _hashed_columns(table)]
    seals = [(place, places[column.info[SEALED_BESIDE]]) for place, column in enumerate(table.columns) if column.info]
    flag, later = places.get("sealed"), new[len(old) :]

    def rehash_row(row: Sequence[Any]) -> list[Any]:
        changed = list(row)
        for place in hashes:
            if row[place] is not None:  # none in a leaf that was unlinked
                changed[place] = rehash(row[place], later)
        for place, beside in seals:
            if row[place] is not None:
                is_sealed = flag is None or row[flag]
                value = seal(old, row[beside], row[place]) if is_sealed else row[place]
                changed[place] = seal(new, changed[beside], value)
        if flag is not None:
            changed[flag] = True
        return changed

    return rehash_row


def _rehash_bodies(session: Session, later: bytes) -> None:
    """Hash on the fingerprints of bodies, by which a call that comes again is known: guesses could be tried out on them."""
    tables: tuple[type[IdempotencyKey | ManagedRequest], ...] = (IdempotencyKey, ManagedRequest)
    for table in tables:
        chosen: Select[Any] = select(table).with_for_update()
        for some in session.scalars(chosen.execution_options(yield_per=CHUNK)).partitions():
            for one in some:
                one.body_sha256 = rehash(bytes.fromhex(one.body_sha256), later).hex()
            session.flush()


def _rewrite_references(session: Session, later: bytes, rewrite: Rewrite) -> tuple[int, list[str]]:
    """Write the models' files of reference predictions anew. Counts them, and lists the models whose file cannot be read."""
    names: dict[UUID, str] = dict(session.execute(select(Model.id, Model.name)).all())
    done, unreadable = 0, []
    for row in session.scalars(select(ReferenceSet)).all():
        new = rewrite(ReferenceFile(sha256=row.sha256, path=row.path), lambda digest: rehash(digest, later))
        if new is None:
            unreadable.append(names[row.model_id])
            continue
        row.sha256, row.path = new.sha256, new.path
        done += 1
        for version in holding_references(session, row.model_id):
            after = held_references(version)
            held = after and rewrite(after, lambda digest: rehash(digest, later))
            if after is not None and held is None:
                unreadable.append(names[row.model_id])
                continue
            hold_references(version, before=new, after=held)
            done += held is not None
    return done, sorted(set(unreadable))
