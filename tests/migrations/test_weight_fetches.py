"""Migration 0031: whoever fetches weights from now on is recorded; what the version before knew stays."""

from alembic import command

from ledger.registry.access import issue_key
from ledger.registry.retention import list_copies
from ledger.registry.versions import find_served_weights, record_fetch
from migrations.commands import configuration, upgrade
from tests.ledger.conftest import World

BEFORE = "0030"


def test_a_fetch_from_a_deployment_of_the_version_before_is_recorded(world: World, newest_database_url: str) -> None:
    command.downgrade(configuration(newest_database_url), BEFORE)
    upgrade(newest_database_url)
    with world.sessions.begin() as session:
        key = issue_key(session, tenant_id=world.tenant_id, name="server", scopes=["weights:read"]).key
        served = find_served_weights(session, tenant_id=world.tenant_id, model="small")
        record_fetch(session, version_id=served.version_id, key_id=key.id)
        (version,) = list_copies(session, tenant_id=world.tenant_id, model="small")
    assert [(each.name, each.times) for each in version.fetched] == [("server", 1)]
