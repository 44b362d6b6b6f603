from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest
from sqlalchemy import text
from sqlalchemy.orm import Session, sessionmaker
from standardwebhooks.webhooks import Webhook

from ledger.events.webhooks import Batch, Delivery, Try, add_webhook, list_deliveries, webhook_secret
from ledger.registry.access import ensure_tenant
from ledger.resources import Webhook as Endpoint
from ledger.states import DeliveryState, TryOutcome, WebhookProtocol
from ledger.tables import WebhookDelivery
from worker.beat import webhooks

KEY = bytes(range(32))
DELIVERY = Delivery(id=UUID(int=1), message_id=UUID(int=2), type="job.failed", body='{"test": 2432232314}')
BATCH = Batch(
    endpoint_id=UUID(int=3),
    url="http://127.0.0.1:1/",
    protocol=WebhookProtocol.STANDARD,
    generations=(2, 1),
    held_until=datetime(2026, 1, 1, tzinfo=UTC),
    deliveries=(DELIVERY,),
)


def test_the_librarys_signature_is_that_of_the_standards_own_example() -> None:
    signature = Webhook("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").sign(
        "msg_p5jXN8AQM9LWM0D4loKWxJek", datetime.fromtimestamp(1614265330, UTC), '{"test": 2432232314}'
    )
    assert signature == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


def test_a_message_verifies_with_the_new_secret_and_with_the_old_one() -> None:
    secrets = [webhook_secret(KEY, BATCH.endpoint_id, generation) for generation in BATCH.generations]
    headers = webhooks.sign(DELIVERY, secrets)
    assert headers["webhook-id"] == f"msg_{UUID(int=2).hex}"
    for secret in secrets:
        assert Webhook(secret).verify(DELIVERY.body, headers) == {"test": 2432232314}
    with pytest.raises(Exception, match="No matching signature"):
        Webhook(webhook_secret(KEY, BATCH.endpoint_id, 3)).verify(DELIVERY.body, headers)


def test_a_message_verifies_with_the_secret_of_before_a_rotation_of_the_sample_key() -> None:
    new = KEY + b"\x01" * 32
    headers = webhooks.sign(DELIVERY, webhooks.secrets_of(BATCH, key=new))
    for key in (KEY, new):
        assert Webhook(webhook_secret(key, BATCH.endpoint_id, 2)).verify(DELIVERY.body, headers)


def test_a_later_try_has_the_same_id_and_another_time() -> None:
    noon = datetime(2026, 1, 1, 12, tzinfo=UTC)
    first, second = (webhooks.sign(DELIVERY, ["whsec_c2VjcmV0"], at=noon + timedelta(hours=n)) for n in (0, 1))
    assert first["webhook-id"] == second["webhook-id"]
    assert int(second["webhook-timestamp"]) - int(first["webhook-timestamp"]) == 3600
    assert first["webhook-signature"] != second["webhook-signature"]


def test_what_cannot_be_reached_or_may_not_be_is_an_outcome() -> None:
    assert webhooks.send_once(BATCH, DELIVERY, key=KEY, allowed=()).outcome is TryOutcome.FORBIDDEN


@pytest.fixture
def endpoint(sessions: sessionmaker[Session]) -> Endpoint:
    """An endpoint for which three messages wait."""
    with sessions.begin() as session:
        view = add_webhook(session, tenant_id=ensure_tenant(session, "clinic"), url="http://127.0.0.1:1/", key=KEY)
        for number in range(3):
            at = text(f"clock_timestamp() - interval '{9 - number} seconds'")
            session.add(
                WebhookDelivery(endpoint_id=view.id, message_id=UUID(int=number), type="t", body="{}", next_try_at=at)
            )
            session.flush()
    return view


def states(sessions: sessionmaker[Session], endpoint: Endpoint) -> list[DeliveryState]:
    with sessions() as session:
        tenant_id = ensure_tenant(session, "clinic")
        page = list_deliveries(session, tenant_id=tenant_id, webhook_id=endpoint.id)
        return [delivery.state for delivery in page.items[::-1]]


def test_everything_due_is_delivered_in_its_order(sessions: sessionmaker[Session], endpoint: Endpoint) -> None:
    sent: list[UUID] = []

    def send(batch: Batch, delivery: Delivery) -> Try:
        sent.append(delivery.message_id)
        return Try(outcome=TryOutcome.DELIVERED, status=200, seconds=0.0)

    webhooks.deliver_webhooks(sessions, send=send)
    assert sent == [UUID(int=number) for number in range(3)]
    assert states(sessions, endpoint) == [DeliveryState.DELIVERED] * 3


def test_after_a_failed_try_the_endpoint_is_left_alone_for_a_while(
    sessions: sessionmaker[Session], endpoint: Endpoint
) -> None:
    sent: list[UUID] = []

    def send(batch: Batch, delivery: Delivery) -> Try:
        sent.append(delivery.message_id)
        return Try(outcome=TryOutcome.UNREACHABLE, status=None, seconds=0.0)

    webhooks.deliver_webhooks(sessions, send=send)
    assert sent == [UUID(int=0)]
    assert states(sessions, endpoint) == [DeliveryState.PENDING] * 3
