"""Who is told what happens, what they are told, and how each try to tell them went."""

from datetime import datetime
from uuid import UUID

from sqlalchemy import BigInteger, CheckConstraint, ForeignKey, Index, text
from sqlalchemy.orm import Mapped, mapped_column

from ledger.states import DeliveryState, DisabledReason, TryOutcome
from ledger.tables.base import Base, Created, Key, choice


class WebhookEndpoint(Base):
    """An address of a tenant's that is told of events. Its secret is derived from `generation`; none is stored."""

    __tablename__ = "webhook_endpoints"
    __table_args__ = (CheckConstraint("(disabled_at IS NULL) = (disabled_reason IS NULL)", name="disabled"),)
    id: Mapped[Key]
    tenant_id: Mapped[UUID] = mapped_column(ForeignKey("tenants.id"), index=True)
    url: Mapped[str]
    # The types of message it wants; none means all.
    types: Mapped[list[str]]
    description: Mapped[str | None]
    generation: Mapped[int] = mapped_column(default=1)
    rotated_at: Mapped[datetime | None]
    # A courier is at it until then, or it rests after a failure.
    busy_until: Mapped[datetime | None]
    failing_since: Mapped[datetime | None]
    disabled_at: Mapped[datetime | None]
    disabled_reason: Mapped[DisabledReason | None] = mapped_column(choice(DisabledReason, "disabled_reason"))
    created_at: Mapped[Created]


class WebhookDelivery(Base):
    """A message for one endpoint: written in the transaction of what it tells, tried until it is taken or given up."""

    __tablename__ = "webhook_deliveries"
    __table_args__ = (
        CheckConstraint("(state = 'pending') = (next_try_at IS NOT NULL)", name="pending"),
        CheckConstraint("(state = 'pending') = (finished_at IS NULL)", name="finished"),
        Index(None, "endpoint_id", "created_at", "id"),
        Index("ix_webhook_deliveries_due", "next_try_at", postgresql_where=text("state = 'pending'")),
        Index("ix_webhook_deliveries_finished_at", "finished_at"),
    )
    id: Mapped[Key]
    endpoint_id: Mapped[UUID] = mapped_column(ForeignKey("webhook_endpoints.id", ondelete="CASCADE"))
    # The same for every endpoint and every try, so that a receiver knows it again.
    message_id: Mapped[UUID]
    type: Mapped[str]
    body: Mapped[str]
    state: Mapped[DeliveryState] = mapped_column(choice(DeliveryState, "state"), default=DeliveryState.PENDING)
    # How many tries of the schedule have failed; a replay begins it anew.
    failures: Mapped[int] = mapped_column(default=0)
    next_try_at: Mapped[datetime | None]
    created_at: Mapped[Created]
    finished_at: Mapped[datetime | None]


class WebhookTry(Base):
    """One try at a delivery."""

    __tablename__ = "webhook_tries"
    delivery_id: Mapped[UUID] = mapped_column(ForeignKey("webhook_deliveries.id", ondelete="CASCADE"), primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    outcome: Mapped[TryOutcome] = mapped_column(choice(TryOutcome, "outcome"))
    status: Mapped[int | None]
    seconds: Mapped[float]
    at: Mapped[Created]


class Tally(Base):
    """A count of what leaves no row for ever, so that a counter does not fall when a log is cut."""

    __tablename__ = "tallies"
    name: Mapped[str] = mapped_column(primary_key=True)
    label: Mapped[str] = mapped_column(primary_key=True)
    value: Mapped[int] = mapped_column(BigInteger, server_default=text("0"))
