from datetime import timedelta
from uuid import uuid4

from sqlalchemy import text

from ledger.db import now
from ledger.metrics import Backlog, outbox_backlog, webhook_backlog
from ledger.tables import WebhookDelivery, WebhookEndpoint

NONE = Backlog(waiting=0, oldest=None)


def test_nothing_waits_in_an_empty_world(world):
    with world.sessions() as session:
        assert outbox_backlog(session) == NONE
        assert webhook_backlog(session) == NONE


def test_a_wake_up_counts_from_its_jobs_cut_off_and_not_before(world):
    world.submit(1, batch_window=timedelta(hours=1))
    with world.sessions() as session:
        assert outbox_backlog(session) == NONE

    with world.sessions.begin() as session:
        session.execute(text("UPDATE jobs SET cut_off = clock_timestamp() - interval '5 minutes'"))
        session.execute(text("UPDATE outbox SET created_at = clock_timestamp() - interval '1 hour'"))
    with world.sessions() as session:
        found = outbox_backlog(session)
        cut_off = session.scalar(text("SELECT cut_off FROM jobs"))
    assert found == Backlog(waiting=1, oldest=cut_off)


def test_a_message_that_nobody_has_taken_waits(world):
    with world.sessions.begin() as session:
        endpoint = WebhookEndpoint(tenant_id=world.tenant_id, url="https://receiver.example/", types=[])
        session.add(endpoint)
        session.flush()
        message = WebhookDelivery(
            endpoint_id=endpoint.id, message_id=uuid4(), type="request.completed", body="{}", next_try_at=now(session)
        )
        session.add(message)
    with world.sessions() as session:
        found = webhook_backlog(session)
    assert (found.waiting, found.oldest) == (1, message.created_at)
