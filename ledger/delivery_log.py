"""The log of deliveries: what was told to an endpoint, how each try went, and telling it again."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

from sqlalchemy import delete, func, select
from sqlalchemy.orm import Session

from ledger.clock import now
from ledger.errors import UnknownDelivery, WebhookDisabled
from ledger.pages import Page, read_page
from ledger.states import DeliveryState, TryOutcome
from ledger.tables import WebhookDelivery, WebhookTry
from ledger.webhooks import find_webhook

KEPT = timedelta(days=30)
"""How long the log of a finished delivery is kept."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TryView:
    """One try of a delivery's log."""

    number: int
    outcome: TryOutcome
    status: int | None
    seconds: float
    at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class DeliveryView:
    """A message for one endpoint, with every try to deliver it."""

    id: UUID
    message_id: UUID
    type: str
    body: str
    state: DeliveryState
    next_try_at: datetime | None
    tries: tuple[TryView, ...]
    created_at: datetime
    finished_at: datetime | None


def list_deliveries(
    session: Session,
    *,
    tenant_id: UUID,
    webhook_id: UUID,
    state: DeliveryState | None = None,
    cursor: str | None = None,
    limit: int = 50,
) -> Page[DeliveryView]:
    """An endpoint's deliveries, newest first: all, or those in a state. Raises UnknownWebhook, InvalidCursor."""
    find_webhook(session, tenant_id=tenant_id, webhook_id=webhook_id)
    chosen = select(WebhookDelivery).where(WebhookDelivery.endpoint_id == webhook_id)
    if state is not None:
        chosen = chosen.where(WebhookDelivery.state == state)
    return read_page(
        session, chosen, WebhookDelivery, cursor=cursor, limit=limit, views=lambda rows: _views(session, rows)
    )


def replay(session: Session, *, tenant_id: UUID, webhook_id: UUID, delivery_id: UUID) -> DeliveryView:
    """Have a delivery tried again now, with the same message and a new schedule.

    Raises UnknownWebhook, UnknownDelivery, and WebhookDisabled.
    """
    if find_webhook(session, tenant_id=tenant_id, webhook_id=webhook_id, lock=True).disabled_at is not None:
        raise WebhookDisabled("the webhook is disabled; enable it first")
    mine = select(WebhookDelivery).where(WebhookDelivery.id == delivery_id, WebhookDelivery.endpoint_id == webhook_id)
    row = session.scalar(mine.with_for_update().execution_options(populate_existing=True))
    if row is None:
        raise UnknownDelivery(f"there is no delivery {delivery_id} of this webhook")
    row.state, row.failures, row.finished_at, row.next_try_at = DeliveryState.PENDING, 0, None, now(session)
    session.flush()
    return _views(session, [row])[0]


def forget_deliveries(session: Session) -> None:
    """Delete the log of what ended longer ago than it is kept."""
    session.execute(delete(WebhookDelivery).where(WebhookDelivery.finished_at <= func.clock_timestamp() - KEPT))


def _views(session: Session, rows: Sequence[WebhookDelivery]) -> list[DeliveryView]:
    tries: dict[UUID, list[TryView]] = {row.id: [] for row in rows}
    made = select(WebhookTry).where(WebhookTry.delivery_id.in_(list(tries))).order_by(WebhookTry.number)
    for of in session.scalars(made):
        view = TryView(number=of.number, outcome=of.outcome, status=of.status, seconds=of.seconds, at=of.at)
        tries[of.delivery_id].append(view)
    return [
        DeliveryView(
            id=row.id,
            message_id=row.message_id,
            type=row.type,
            body=row.body,
            state=row.state,
            next_try_at=row.next_try_at,
            tries=tuple(tries[row.id]),
            created_at=row.created_at,
            finished_at=row.finished_at,
        )
        for row in rows
    ]
