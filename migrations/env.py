"""Alembic runs this module: it connects to the database and runs the migrations, one process at a time."""

import os
from contextlib import ExitStack

from alembic import context
from sqlalchemy import Connection, text

from ledger.db import make_engine
from ledger.tables import Base

LOCK = 0x65787075
"""The advisory lock of whoever migrates: any number, the same for every process."""

LOCK_TIMEOUT = "10s"
"""How long a migration waits for a table that a running service uses. It then fails, whole, rather than hold up the service."""


def take_turns(connection: Connection) -> None:
    """Let one process at a time go on, and limit how long this transaction waits for a table."""
    connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": LOCK})
    timeout = context.config.attributes.get("lock_timeout", LOCK_TIMEOUT)
    connection.execute(text("SELECT set_config('lock_timeout', :timeout, true)"), {"timeout": timeout})


def validate_next(connection: Connection) -> bool:
    """Validate one check that a migration has added as NOT VALID, and return whether there was one.

    Migrations add checks to existing tables so, because reading a large table while it is locked would hold up the service. The
    validation takes a transaction of its own, in which others may read and write the table.
    """
    with connection.begin():
        take_turns(connection)
        added = (
            "SELECT conrelid::regclass::text, quote_ident(conname) FROM pg_constraint WHERE NOT convalidated LIMIT 1"
        )
        found = connection.execute(text(added)).one_or_none()
        if found is not None:
            table, name = found
            connection.execute(text(f"ALTER TABLE {table} VALIDATE CONSTRAINT {name}"))
        return found is not None


url = context.config.attributes.get("url") or os.environ.get("DATABASE_URL")
if not url:
    raise SystemExit("set DATABASE_URL to the database to migrate")

engine = make_engine(url, pool_size=1)
with ExitStack() as end:
    end.callback(engine.dispose)
    connection = end.enter_context(engine.connect())
    context.configure(
        connection=connection,
        target_metadata=Base.metadata,
        compare_type=True,
        compare_server_default=True,
        transaction_per_migration=False,
    )
    with context.begin_transaction():
        take_turns(connection)
        context.run_migrations()
    while validate_next(connection):
        pass
