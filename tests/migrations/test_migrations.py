"""The migrations make the tables that are declared in Python, and can be undone."""

import itertools

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import CheckConstraint, Engine, create_engine, event, inspect, pool, text
from sqlalchemy.exc import IntegrityError

from ledger.db import make_engine, normalise_url
from ledger.tables import Base
from migrations.commands import configuration, upgrade


def tables(url):
    engine = create_engine(normalise_url(url), poolclass=pool.NullPool)
    try:
        return set(inspect(engine).get_table_names()) - {"alembic_version"}
    finally:
        engine.dispose()


def test_up_down_and_up_again(blank_database_url):
    upgrade(blank_database_url)
    assert tables(blank_database_url) == set(Base.metadata.tables)
    command.downgrade(configuration(blank_database_url), "base")
    assert tables(blank_database_url) == set()
    upgrade(blank_database_url)
    upgrade(blank_database_url)
    assert tables(blank_database_url) == set(Base.metadata.tables)


def test_a_check_is_added_without_reading_its_table_and_validated_once_the_lock_is_released(blank_database_url):
    command.upgrade(configuration(blank_database_url), "0001")
    executed = []

    def note(_connection, _cursor, statement, *_):
        executed.append(statement)

    def note_commit(_):
        executed.append("COMMIT")

    event.listen(Engine, "before_cursor_execute", note)
    event.listen(Engine, "commit", note_commit)
    upgrade(blank_database_url)
    event.remove(Engine, "before_cursor_execute", note)
    event.remove(Engine, "commit", note_commit)
    added = [place for place, what in enumerate(executed) if "ADD CONSTRAINT" in what and " CHECK " in what]
    validated = [place for place, what in enumerate(executed) if "VALIDATE CONSTRAINT" in what]
    assert added
    assert all(executed[place].endswith("NOT VALID") for place in added)
    committed = executed.index("COMMIT")
    assert max(added) < committed < min(validated)
    assert all("COMMIT" in executed[one:other] for one, other in itertools.pairwise(validated))
    engine = create_engine(normalise_url(blank_database_url), poolclass=pool.NullPool)
    with engine.connect() as connection:
        assert connection.scalar(text("SELECT count(*) FROM pg_constraint WHERE NOT convalidated")) == 0
    engine.dispose()


def test_autogenerate_finds_nothing(engine):
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True, "compare_server_default": True})
        assert compare_metadata(context, Base.metadata) == []


def check_definitions(engine):
    """Read the name and the normalised definition of every CHECK. Autogenerate does not compare these."""
    statement = text(
        "SELECT conrelid::regclass::text || '.' || conname, pg_get_constraintdef(oid) FROM pg_constraint "
        "WHERE contype = 'c' AND connamespace = 'public'::regnamespace"
    )
    with engine.connect() as connection:
        return dict(connection.execute(statement).all())


def test_every_check_is_the_same_in_python_and_in_the_migrations(engine, blank_database_url):
    from_python = make_engine(blank_database_url)
    Base.metadata.create_all(from_python)
    checks = check_definitions(from_python)
    from_python.dispose()
    assert sum(isinstance(c, CheckConstraint) for t in Base.metadata.tables.values() for c in t.constraints) == len(
        checks
    )
    assert check_definitions(engine) == checks


def test_the_database_itself_refuses_an_unknown_state(engine):
    ids = "gen_random_uuid(), gen_random_uuid(), gen_random_uuid()"
    with engine.connect() as connection, pytest.raises(IntegrityError, match="ck_jobs_state"):
        connection.execute(
            text(
                "INSERT INTO jobs (id, tenant_id, model_id, state, cut_off, cut_off_reason, frozen_at, policy, policy_index, "
                "method, attempt, tries, cancel_requested, phase, progress, step, total, metrics, timings) "
                f"VALUES ({ids}, 'crashed', now(), 'window', now(), '[]', 0, "
                "'{}', 1, 0, false, 'waiting', 0, 0, 0, '{}', '{}')"
            )
        )
