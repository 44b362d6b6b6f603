"""Migration 0028: what a deployment of the version before serves is handed over once a system is connected."""

from alembic import command

from ledger.events.hand_overs import plan_hand_overs, take_hand_over
from migrations.commands import configuration, upgrade
from tests.ledger.conftest import World

BEFORE = "0027"


def test_what_was_served_before_is_handed_over(world: World, newest_database_url: str) -> None:
    command.downgrade(configuration(newest_database_url), BEFORE)
    upgrade(newest_database_url)
    with world.sessions.begin() as session:
        plan_hand_overs(
            session, connector="triton", tenant="hospital", concerns=lambda model: model == "large", withdraws=False
        )
        taken = take_hand_over(session, "triton")
    assert taken is not None
    assert (taken.model, taken.version) == ("large", 1)
