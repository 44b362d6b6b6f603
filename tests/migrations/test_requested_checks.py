"""Migration 0032: connected systems may ask for checks from now on; hand-overs of the version before stay."""

from alembic import command
from sqlalchemy import create_engine, pool

from ledger.db import make_sessions, normalise_url
from ledger.events.checks import take_requested_checks
from migrations.commands import configuration, upgrade
from tests.ledger.conftest import make_world
from tests.ledger.events.test_checks import ask, waiting
from tests.ledger.events.test_hand_overs import plan, states, succeed, take

BEFORE = "0031"


def test_a_hand_over_of_the_version_before_is_checked_when_its_system_asks(blank_database_url: str) -> None:
    upgrade(blank_database_url)
    engine = create_engine(normalise_url(blank_database_url), poolclass=pool.NullPool)
    world = make_world(make_sessions(engine))
    plan(world)
    succeed(world, take(world))
    command.downgrade(configuration(blank_database_url), BEFORE)
    upgrade(blank_database_url)
    ask(world)
    with world.sessions.begin() as session:
        take_requested_checks(session, "triton")
    assert (states(world), waiting(world)) == ([(1, "delivered")], 0)
    assert take(world) is not None
    engine.dispose()
