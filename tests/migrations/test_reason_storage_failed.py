"""Migration 0030: a job may fail because of its storage; the version before reads it as unexpected."""

from alembic import command
from sqlalchemy import create_engine, pool

from ledger.db import make_sessions, normalise_url
from ledger.states import Reason
from migrations.commands import configuration, upgrade
from tests.ledger.conftest import make_world

BEFORE = "0029"


def test_the_reason_is_known_from_now_on_and_not_before(blank_database_url: str) -> None:
    upgrade(blank_database_url)
    engine = create_engine(normalise_url(blank_database_url), poolclass=pool.NullPool)
    world = make_world(make_sessions(engine))
    world.fail(world.submit_and_claim(1), Reason.STORAGE_FAILED)
    command.downgrade(configuration(blank_database_url), BEFORE)
    assert world.count("attempts", "reason = 'unexpected'") == 1
    upgrade(blank_database_url)
    world.fail(world.submit_and_claim(2), Reason.STORAGE_FAILED)
    assert world.count("attempts", "reason = 'storage_failed'") == 1
    engine.dispose()
