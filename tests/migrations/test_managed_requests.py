"""Migrations 0029 and 0036.

Webhooks of the version before stay what they are, and a step back leaves no callback address among them. References of jobs that
held a part of a hash do not any more.
"""

from alembic import command
from sqlalchemy import text

from ledger.events.webhooks import add_webhook, list_webhooks, queue_callback
from ledger.states import WebhookProtocol
from migrations.commands import configuration, upgrade
from tests.ledger.conftest import KEY, World

BEFORE = "0028"


def test_webhooks_stay_and_callback_addresses_go_with_the_step_back(world: World, newest_database_url: str) -> None:
    with world.sessions.begin() as session:
        hook = add_webhook(session, tenant_id=world.tenant_id, url="https://example.org/hooks", key=KEY)
        queue_callback(session, tenant_id=world.tenant_id, url="https://example.org/callbacks", body="{}")
    command.downgrade(configuration(newest_database_url), BEFORE)
    upgrade(newest_database_url)
    with world.sessions() as session:
        found = list_webhooks(session, tenant_id=world.tenant_id)
    assert [(one.id, one.protocol) for one in found] == [(hook.id, WebhookProtocol.STANDARD)]


def test_the_references_of_jobs_say_nothing_of_the_person_any_more(world: World, newest_database_url: str) -> None:
    request = world.submit(1)
    command.downgrade(configuration(newest_database_url), "0035")
    record = text(
        "INSERT INTO managed_requests (tenant_id, manager, reference, body_sha256, request_id, due_at, quiet_until, "
        "callback_urls, reply) VALUES (:tenant, :manager, :reference, repeat('0', 64), :request, now(), now(), '{}', :reply)"
    )
    rows = [
        ("transcend.io", "7.0123456789abcdef", request.id, None),
        ("transcend.io", "8.0123456789abcdef", None, None),
        ("transcend.io", "9.0123456789abcdef", None, b"sealed under its reference"),
        ("portal", "DSR.0123456789abcdef", None, None),
    ]
    with world.sessions.begin() as session:
        for manager, reference, request_id, reply in rows:
            given = {"manager": manager, "reference": reference, "request": request_id, "reply": reply}
            session.execute(record, {"tenant": world.tenant_id, **given})
    upgrade(newest_database_url)
    with world.sessions() as session:
        found = session.scalars(text("SELECT reference FROM managed_requests ORDER BY reference")).all()
        external = session.scalar(text("SELECT external_id FROM unlearn_requests"))
    assert [one[:2] for one in found] == ["7.", "8.", "9.", "DS"]
    assert [len(one) for one in found[:2]] == [18, 18]
    assert found[2:] == ["9.0123456789abcdef", "DSR.0123456789abcdef"]
    assert not {rows[0][1], rows[1][1]} & set(found)
    assert external == found[0]
