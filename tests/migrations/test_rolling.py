"""A running release survives the migrations of the next: they expand the schema, and contract only what no release uses.

What the code of a release writes and reads must still exist, and must still be enough, after the next release's migrations.
`RELEASED` is the release to compare with; change it at each release.
"""

from dataclasses import dataclass

import pytest
from alembic import command
from sqlalchemy import Engine, create_engine, inspect, pool, text

from ledger.db import normalise_url
from migrations.commands import configuration, newest

RELEASED = "0013"
"""The newest revision of the last release, or of the schema that 0.1.0 will be released with."""


@dataclass(frozen=True)
class Column:
    """What older code relies on about a column."""

    kind: str
    required: bool


def columns(engine: Engine) -> dict[tuple[str, str], Column]:
    """Read the type of every column, and whether an insert must name it."""
    found = inspect(engine)
    return {
        (table, column["name"]): Column(
            str(column["type"]),
            not column["nullable"] and column["default"] is None and not column.get("identity"),
        )
        for table in found.get_table_names()
        for column in found.get_columns(table)
    }


def breaks(before: dict[tuple[str, str], Column], after: dict[tuple[str, str], Column]) -> list[str]:
    """List what breaks code that was written for `before`."""
    tables = {table for table, _ in before}
    faults = [f"{table}.{name} is gone" for table, name in before.keys() - after.keys()]
    faults += [
        f"{'.'.join(at)} is of another type" for at in before.keys() & after.keys() if before[at].kind != after[at].kind
    ]
    faults += [
        f"{'.'.join(at)} must be given, which older code does not"
        for at, column in after.items()
        if column.required and at[0] in tables and not (at in before and before[at].required)
    ]
    return sorted(faults)


def test_the_release_before_survives_the_newest_migrations(blank_database_url: str) -> None:
    engine = create_engine(normalise_url(blank_database_url), poolclass=pool.NullPool)
    command.upgrade(configuration(blank_database_url), RELEASED)
    before = columns(engine)
    command.upgrade(configuration(blank_database_url), "head")

    assert breaks(before, columns(engine)) == []
    assert newest() >= RELEASED


@pytest.mark.parametrize(
    ("statement", "fault"),
    [
        ("ALTER TABLE tenants ADD COLUMN note text", None),
        ("ALTER TABLE tenants ADD COLUMN note text NOT NULL DEFAULT ''", None),
        ("CREATE TABLE other (id int NOT NULL)", None),
        ("ALTER TABLE tenants ADD COLUMN note text NOT NULL", "tenants.note must be given, which older code does not"),
        ("ALTER TABLE tenants RENAME COLUMN name TO label", "tenants.name is gone"),
        ("ALTER TABLE tenants DROP COLUMN name", "tenants.name is gone"),
        ("ALTER TABLE tenants ALTER COLUMN name TYPE varchar(9)", "tenants.name is of another type"),
    ],
)
def test_what_breaks_older_code_is_found(engine: Engine, statement: str, fault: str | None) -> None:
    with engine.connect() as connection:
        before = columns(connection)  # type: ignore[arg-type]  # a connection can be inspected as well
        connection.execute(text(statement))
        found = breaks(before, columns(connection))  # type: ignore[arg-type]
        connection.rollback()

    assert (fault in found) if fault else (found == [])
