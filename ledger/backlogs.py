"""What should have been sent by now and was not: wake-ups in the outbox, webhooks."""

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import case, func, select
from sqlalchemy.orm import Session

from ledger.states import DeliveryState
from ledger.tables import Job, OutboxEntry, WebhookDelivery


@dataclass(frozen=True, slots=True, kw_only=True)
class Backlog:
    """How many wait, and since when the oldest of them has; None where none does."""

    waiting: int
    oldest: datetime | None


def outbox(session: Session) -> Backlog:
    """The wake-ups whose job is due. An entry's own time moves on with every try to send it, so the job's cut-off counts."""
    due = case(
        (Job.frozen_at.is_not(None), OutboxEntry.created_at), else_=func.greatest(OutboxEntry.created_at, Job.cut_off)
    )
    counted = select(func.count(), func.min(due)).join(Job, Job.id == OutboxEntry.job_id)
    waiting, oldest = session.execute(counted.where(due <= func.clock_timestamp())).one()
    return Backlog(waiting=waiting, oldest=oldest)


def webhooks(session: Session) -> Backlog:
    """The messages that no endpoint has taken yet, those that wait after a failed try among them."""
    pending = select(func.count(), func.min(WebhookDelivery.created_at))
    waiting, oldest = session.execute(pending.where(WebhookDelivery.state == DeliveryState.PENDING)).one()
    return Backlog(waiting=waiting, oldest=oldest)
