"""Migrations 0032 to 0034: connected systems may ask for checks, versions may be signed, managers may want something back."""

from alembic import command

from ledger.events.hand_overs import take_requested_checks
from ledger.registry.versions import find_served_signature, list_signable, set_signature
from ledger.requests.managed import list_results
from migrations.commands import configuration, upgrade
from tests.ledger.conftest import World
from tests.ledger.events.test_hand_overs import ask, plan, states, succeed, take, waiting

BEFORE = "0031"


def test_a_hand_over_of_the_version_before_is_checked_and_its_version_signed(
    world: World, newest_database_url: str
) -> None:
    plan(world)
    succeed(world, take(world))
    command.downgrade(configuration(newest_database_url), BEFORE)
    upgrade(newest_database_url)
    ask(world)
    with world.sessions.begin() as session:
        take_requested_checks(session, "triton")
    assert (states(world), waiting(world)) == ([(1, "delivered")], 0)
    assert take(world) is not None
    with world.sessions.begin() as session:
        (version,) = list_signable(session, tenant_id=world.tenant_id, model="small")
        assert version.signature is None
        set_signature(session, version.version_id, {"mediaType": "x"})
    with world.sessions.begin() as session:
        found = find_served_signature(session, tenant_id=world.tenant_id, model="small")
        assert list_results(session, "transcend") == []
    assert found == (1, {"mediaType": "x"})
