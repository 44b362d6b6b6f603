"""Migration 0029: webhooks of the version before stay what they are, and a step back leaves no callback address among them."""

from alembic import command

from ledger.events.deliveries import queue_callback
from ledger.events.webhooks import add_webhook, list_webhooks
from ledger.states import WebhookProtocol
from migrations.commands import configuration, upgrade
from tests.ledger.conftest import KEY, World

BEFORE = "0028"


def test_webhooks_stay_and_callback_addresses_go_with_the_step_back(world: World, blank_database_url: str) -> None:
    with world.sessions.begin() as session:
        hook = add_webhook(session, tenant_id=world.tenant_id, url="https://example.org/hooks", key=KEY)
        queue_callback(session, tenant_id=world.tenant_id, url="https://example.org/callbacks", body="{}")
    command.downgrade(configuration(blank_database_url), BEFORE)
    upgrade(blank_database_url)
    with world.sessions() as session:
        found = list_webhooks(session, tenant_id=world.tenant_id)
    assert [(one.id, one.protocol) for one in found] == [(hook.id, WebhookProtocol.STANDARD)]
