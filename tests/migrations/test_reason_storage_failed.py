"""Migration 0030: a job may fail because of its storage; the version before reads it as unexpected."""

from alembic import command

from ledger.states import Reason
from migrations.commands import configuration, upgrade
from tests.ledger.conftest import World

BEFORE = "0029"


def test_the_reason_is_known_from_now_on_and_not_before(world: World, newest_database_url: str) -> None:
    world.fail(world.submit_and_claim(1), Reason.STORAGE_FAILED)
    command.downgrade(configuration(newest_database_url), BEFORE)
    assert world.count("attempts", "reason = 'unexpected'") == 1
    upgrade(newest_database_url)
    world.fail(world.submit_and_claim(2), Reason.STORAGE_FAILED)
    assert world.count("attempts", "reason = 'storage_failed'") == 1
