from uuid import uuid4

import pytest
from sqlalchemy import text

from ledger.errors import UnknownDelivery, WebhookDisabled
from ledger.events import deliveries as delivery_log
from ledger.events import webhooks
from ledger.events.deliveries import TALLY
from ledger.metrics import read_tallies
from ledger.states import MessageType
from tests.ledger.events.test_deliveries import TAKEN, add, note, release, take, told


def test_a_replay_sends_the_same_message_again_unless_the_endpoint_is_disabled(world):
    webhook_id = add(world, MessageType.REQUEST_RECEIVED)
    world.submit(1)
    batch = take(world)
    note(world, batch, TAKEN)
    release(world, batch)
    mine = {"tenant_id": world.tenant_id, "webhook_id": webhook_id}
    with world.sessions.begin() as session:
        delivery_log.replay(session, delivery_id=batch.deliveries[0].id, **mine)
    assert take(world).deliveries == batch.deliveries
    with world.sessions.begin() as session, pytest.raises(UnknownDelivery):
        delivery_log.replay(session, delivery_id=uuid4(), **mine)
    with world.sessions.begin() as session:
        webhooks.change_webhook(session, enabled=False, **mine)
    with world.sessions.begin() as session, pytest.raises(WebhookDisabled):
        delivery_log.replay(session, delivery_id=batch.deliveries[0].id, **mine)


def test_the_log_of_what_ended_long_ago_is_cut_and_the_count_stays(world):
    webhook_id = add(world, MessageType.REQUEST_RECEIVED)
    world.submit(1)
    note(world, take(world), TAKEN)
    with world.sessions.begin() as session:
        delivery_log.delete_expired_deliveries(session)
    assert len(told(world, webhook_id)) == 1
    with world.sessions.begin() as session:
        session.execute(text("UPDATE webhook_deliveries SET finished_at = finished_at - interval '31 days'"))
        delivery_log.delete_expired_deliveries(session)
        assert read_tallies(session, TALLY) == {"delivered": 1}
    assert (told(world, webhook_id), world.count("webhook_tries")) == ([], 0)
