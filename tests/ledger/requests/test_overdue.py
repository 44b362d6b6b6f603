import json
from datetime import UTC, datetime, timedelta

from sqlalchemy import text

from ledger.events.timeline import list_request_events
from ledger.events.webhooks import add_webhook
from ledger.requests.deadlines import mark_overdue
from ledger.requests.submission import cancel_request

LONG_AGO = datetime.now(UTC) - timedelta(days=60)


def note(world):
    with world.sessions.begin() as session:
        return mark_overdue(session)


def test_an_open_request_past_its_date_is_told_once(world):
    late = world.submit(1, received_at=LONG_AGO)
    world.submit(2)
    with world.sessions.begin() as session:
        add_webhook(session, tenant_id=world.tenant_id, url="https://example.org/", key=bytes(32))
    assert (note(world), note(world)) == (1, 0)
    with world.sessions() as session:
        events = list_request_events(session, tenant_id=world.tenant_id, request_id=late.id)
        (body,) = session.scalars(text("SELECT body FROM webhook_deliveries")).all()
    assert [event.kind for event in events].count("request.overdue") == 1
    told = json.loads(body)
    assert (told["type"], told["data"]["request_id"]) == ("request.overdue", str(late.id))


def test_what_has_ended_is_never_overdue(world):
    withdrawn = world.submit(1, received_at=LONG_AGO)
    with world.sessions.begin() as session:
        cancel_request(session, tenant_id=world.tenant_id, request_id=withdrawn.id)
    assert note(world) == 0


def test_two_that_look_at_once_share_the_work(world):
    world.submit(1, received_at=LONG_AGO)
    with world.sessions.begin() as session:
        assert mark_overdue(session) == 1
        assert note(world) == 0
