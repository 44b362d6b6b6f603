"""Tell a dataset which of its samples belong to whom, from CSV, Parquet or an SQL query. All is written or nothing."""

import csv
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from uuid import UUID

from sqlalchemy import create_engine
from sqlalchemy.exc import ArgumentError, DataError, SQLAlchemyError

from expunge.errors import CannotImport
from expunge.operator.deployment import Deployment, open_ledger
from ledger.db import normalise_url, parse_url
from ledger.errors import Refused
from ledger.registry.access import ensure_tenant
from ledger.registry.subjects import CHUNK, Assignment, assign_subjects
from ledger.sample_ids import sample_digest, subject_digest
from verifier.sample_ids import InvalidSampleID, line_to_id

Row = tuple[int, object, object]
"""The number of a line, from 1; the subject and the sample ID on it, as they were read."""


def import_subjects(
    deployment: Deployment,
    *,
    dataset: str,
    rows: Iterable[Row],
    replace: bool = False,
    tenant: str = "default",
    show: Callable[[int], None] = lambda lines: None,
) -> Assignment:
    """Assign a dataset's samples to their subjects, beside what is assigned already, or with `replace` in place of it.

    rows: streamed; memory stays flat however many there are. show: called now and then with the number of lines so far.
    Raises CannotImport with the reason; then nothing is written.
    """
    try:
        with open_ledger(deployment) as session:
            return assign_subjects(
                session,
                tenant_id=ensure_tenant(session, tenant),
                dataset=dataset,
                rows=_hashed(rows, key=deployment.sample_key, dataset=dataset, show=show),
                replace=replace,
            )
    except Refused as error:
        reason = str(error)
        raise CannotImport(f"{reason[:1].upper()}{reason[1:]}.") from error


def _hashed(
    rows: Iterable[Row], *, key: bytes, dataset: str, show: Callable[[int], None]
) -> Iterator[tuple[bytes, bytes, int]]:
    for number, (line, subject, sample_id) in enumerate(rows, start=1):
        whose, what = _to_id(subject, "subject", line), _to_id(sample_id, "sample ID", line)
        yield subject_digest(key, whose), sample_digest(key, dataset, what), line
        if number % CHUNK == 0:
            show(number)


def _to_id(value: object, name: str, line: int) -> str:
    """Return a value of a line as an ID, without blanks around it. Raises CannotImport, which does not quote it."""
    if value is None:
        raise CannotImport(f"The {name} on line {line} is missing.")
    if isinstance(value, bool) or not isinstance(value, str | int | UUID):
        raise CannotImport(
            f"The {name} on line {line} is a {type(value).__name__}; it must be a text or a whole number."
        )
    try:
        found = line_to_id(str(value))
    except InvalidSampleID as fault:
        raise CannotImport(f"The {name} on line {line} {fault}.") from None
    if found is None:
        raise CannotImport(f"The {name} on line {line} is empty.")
    return found


def read_csv(
    lines: Iterable[str], *, subject_column: str = "user_id", sample_column: str = "sample_id", delimiter: str = ","
) -> Iterator[Row]:
    """Read the rows of a CSV file, whose first line names the columns. Further columns are passed over. Raises CannotImport."""
    table = csv.reader(lines, delimiter=delimiter, strict=True)
    try:
        # The message does not quote the line: without names it is already about somebody.
        names = [name.strip().removeprefix("\ufeff") for name in next(table, [])]
        if missing := [name for name in (subject_column, sample_column) if names.count(name) != 1]:
            raise CannotImport(
                f"The first line must name the columns, and {' and '.join(map(repr, missing))} once. If they have other names, say "
                "which with --subject-column and --sample-column."
            )
        subject, sample_id = names.index(subject_column), names.index(sample_column)
        for fields in table:
            if not fields:  # an empty line
                continue
            if len(fields) <= max(subject, sample_id):
                raise CannotImport(f"Line {table.line_num} has {len(fields)} of {len(names)} columns.")
            yield table.line_num, fields[subject], fields[sample_id]
    except csv.Error as error:
        raise CannotImport(f"Line {table.line_num} is not CSV: {error}.") from error
    except UnicodeDecodeError as error:
        raise CannotImport(f"The file is not in UTF-8, after line {table.line_num}.") from error


PARQUET = b"PAR1"
"""What a Parquet file begins with."""


def is_parquet(path: Path) -> bool:
    """Return whether a path is a Parquet file, or a folder, which may hold nothing else."""
    if path.is_dir():
        return True
    with path.open("rb") as file:
        return file.read(len(PARQUET)) == PARQUET


def read_parquet(path: Path, *, subject_column: str = "user_id", sample_column: str = "sample_id") -> Iterator[Row]:
    """Read the rows of a Parquet file, or of the files of a folder by name, numbered from 1. Raises CannotImport.

    Numbers and UUIDs count as their usual text. Other columns are not read.
    """
    try:
        from pyarrow import ArrowException, parquet
    except ImportError:
        raise CannotImport(
            "Parquet is read with pyarrow, which is not installed: pip install 'expunge[parquet]'."
        ) from None
    files = sorted(path.glob("*.parquet")) if path.is_dir() else [path]
    if not files:
        raise CannotImport(f"{path} holds no file *.parquet.")
    row = 0
    for each in files:
        try:
            with parquet.ParquetFile(each) as table:
                names = table.schema_arrow.names
                if missing := [name for name in (subject_column, sample_column) if names.count(name) != 1]:
                    raise CannotImport(
                        f"{each.name} must have the columns {' and '.join(map(repr, missing))} once. If they have other names, say "
                        "which with --subject-column and --sample-column."
                    )
                for batch in table.iter_batches(batch_size=CHUNK, columns=[subject_column, sample_column]):
                    pairs = (batch.column(name).to_pylist() for name in (subject_column, sample_column))
                    for subject, sample_id in zip(*pairs, strict=True):
                        row += 1
                        yield row, subject, sample_id
        except (ArrowException, OSError) as error:
            raise CannotImport(f"{each.name} cannot be read after row {row} ({type(error).__name__}).") from error


def read_query(url: str, query: str) -> Iterator[Row]:
    """Read the rows of a query: two columns, the subject and then the sample ID. Numbers and UUIDs count as their usual text.

    url: of any database that SQLAlchemy has a driver for. Rows are streamed, and nothing is written there. Raises CannotImport.
    """
    try:
        location = parse_url(url)
        if location.drivername in ("postgresql", "postgres"):
            location = normalise_url(url)
        engine = create_engine(location, hide_parameters=True)
    except (ArgumentError, ImportError, ValueError) as error:
        raise CannotImport(f"The database to read from cannot be opened: {error}") from error
    try:
        # The query goes to the driver as it is: a colon or a percent sign in it is no parameter.
        options = {"stream_results": True, "yield_per": CHUNK, "no_parameters": True}
        with engine.connect().execution_options(**options) as connection:
            found = connection.exec_driver_sql(query)
            if len(columns := list(found.keys())) != 2:
                raise CannotImport(
                    f"The query gives {len(columns)} columns; it must give two, the subject and then the sample ID."
                )
            for number, (subject, sample_id) in enumerate(found, start=1):
                yield number, subject, sample_id
    except DataError as error:
        raise CannotImport(
            "The query failed: the database could not convert a value. Its message would quote the value."
        ) from error
    except SQLAlchemyError as error:
        first = next(iter(str(error.__cause__ or error).splitlines()), "")
        raise CannotImport(f"The query failed ({type(error).__name__}): {first}") from error
    finally:
        engine.dispose()
