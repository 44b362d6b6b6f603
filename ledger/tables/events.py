"""Events, the outbox of wake-ups, webhooks, hand-overs to other systems, and tallies."""

from datetime import datetime
from uuid import UUID

from sqlalchemy import BigInteger, CheckConstraint, ForeignKey, Identity, Index, func, text
from sqlalchemy.orm import Mapped, mapped_column

from ledger.states import DeliveryState, DisabledReason, HandOverState, TryOutcome, WebhookProtocol
from ledger.tables.base import Base, Created, Json, Key, choice


class Event(Base):
    """An event of a job, a request or a model. It is never changed or deleted."""

    __tablename__ = "events"
    __table_args__ = (
        CheckConstraint("num_nonnulls(job_id, request_id, model_id) = 1", name="subject"),
        Index(None, "job_id", "id"),
        Index(None, "request_id", "id"),
        Index("ix_events_model_id_id", "model_id", "id", postgresql_where=text("model_id IS NOT NULL")),
    )
    id: Mapped[int] = mapped_column(BigInteger, Identity(always=True), primary_key=True)
    job_id: Mapped[UUID | None] = mapped_column(ForeignKey("jobs.id"))
    request_id: Mapped[UUID | None] = mapped_column(ForeignKey("unlearn_requests.id"))
    model_id: Mapped[UUID | None] = mapped_column(ForeignKey("models.id"))
    at: Mapped[Created]
    kind: Mapped[str]
    data: Mapped[Json]


class OutboxEntry(Base):
    """A job to wake. It is sent, again and again, from `available_at` on, and deleted once the broker has the message."""

    __tablename__ = "outbox"
    id: Mapped[int] = mapped_column(BigInteger, Identity(always=True), primary_key=True)
    job_id: Mapped[UUID] = mapped_column(ForeignKey("jobs.id"), unique=True)
    available_at: Mapped[datetime] = mapped_column(server_default=func.clock_timestamp(), index=True)
    created_at: Mapped[Created]


class WebhookEndpoint(Base):
    """An address to which a tenant's events are sent. Its secret is derived from `generation` and not stored."""

    __tablename__ = "webhook_endpoints"
    __table_args__ = (
        CheckConstraint("(disabled_at IS NULL) = (disabled_reason IS NULL)", name="disabled"),
        # An address that requests name is one endpoint, however many name it.
        Index(
            "uq_webhook_endpoints_callback",
            "tenant_id",
            "url",
            unique=True,
            postgresql_where=text("protocol = 'opendsr'"),
        ),
    )
    id: Mapped[Key]
    tenant_id: Mapped[UUID] = mapped_column(ForeignKey("tenants.id"), index=True)
    url: Mapped[str]
    protocol: Mapped[WebhookProtocol] = mapped_column(
        choice(WebhookProtocol, "protocol"), server_default=text("'standard'"), default=WebhookProtocol.STANDARD
    )
    # The types of message to send; empty means all.
    types: Mapped[list[str]]
    description: Mapped[str | None]
    generation: Mapped[int] = mapped_column(default=1)
    rotated_at: Mapped[datetime | None]
    # Until then a relay sends to it, or it pauses after a failure.
    busy_until: Mapped[datetime | None]
    failing_since: Mapped[datetime | None]
    disabled_at: Mapped[datetime | None]
    disabled_reason: Mapped[DisabledReason | None] = mapped_column(choice(DisabledReason, "disabled_reason"))
    created_at: Mapped[Created]

    @property
    def enabled(self) -> bool:
        """Whether events are sent to it."""
        return self.disabled_at is None


class WebhookDelivery(Base):
    """A message for one endpoint. It is written in the transaction of its event, and tried until it is delivered or fails."""

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
    # The same for every endpoint and every try, so that a receiver recognises it.
    message_id: Mapped[UUID]
    type: Mapped[str]
    body: Mapped[str]
    state: Mapped[DeliveryState] = mapped_column(choice(DeliveryState, "state"), default=DeliveryState.PENDING)
    # How many tries of the schedule have failed. A replay starts at 0 again.
    failures: Mapped[int] = mapped_column(default=0)
    next_try_at: Mapped[datetime | None]
    created_at: Mapped[Created]
    finished_at: Mapped[datetime | None]


class WebhookTry(Base):
    """One try to deliver a message."""

    __tablename__ = "webhook_tries"
    delivery_id: Mapped[UUID] = mapped_column(ForeignKey("webhook_deliveries.id", ondelete="CASCADE"), primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    outcome: Mapped[TryOutcome] = mapped_column(choice(TryOutcome, "outcome"))
    status: Mapped[int | None]
    seconds: Mapped[float]
    at: Mapped[Created]


class HandOver(Base):
    """A model version for one of the systems that the operator has connected. A system has one current version of a model."""

    __tablename__ = "hand_overs"
    __table_args__ = (
        CheckConstraint("(state IN ('superseded', 'withdrawn')) = (next_try_at IS NULL)", name="next_try"),
        Index(
            "ix_hand_overs_current",
            "connector",
            "model_id",
            unique=True,
            postgresql_where=text("state IN ('pending', 'delivered')"),
        ),
        Index("ix_hand_overs_due", "connector", "next_try_at", postgresql_where=text("next_try_at IS NOT NULL")),
    )
    id: Mapped[Key]
    # The name of the connector in the operator's file.
    connector: Mapped[str]
    model_id: Mapped[UUID] = mapped_column(ForeignKey("models.id"), index=True)
    version_id: Mapped[UUID] = mapped_column(ForeignKey("model_versions.id"), index=True)
    state: Mapped[HandOverState] = mapped_column(choice(HandOverState, "state"), default=HandOverState.PENDING)
    # How many tries have failed since it came into its state, and the sentence of the last one.
    failures: Mapped[int] = mapped_column(default=0)
    detail: Mapped[str | None]
    # Where the system keeps it, in the system's own words.
    place: Mapped[str | None]
    since: Mapped[Created]
    # A try that is under way hides the row until then.
    next_try_at: Mapped[datetime | None]
    # From the first try on the system may have the weights, whatever it has answered.
    tried_at: Mapped[datetime | None]
    delivered_at: Mapped[datetime | None]
    withdrawn_at: Mapped[datetime | None]
    created_at: Mapped[Created]


class RequestedCheck(Base):
    """A signed message of a connected system that something has changed there, so that it is checked at once."""

    __tablename__ = "requested_checks"
    __table_args__ = (Index("ix_requested_checks_waiting", "connector", postgresql_where=text("taken_at IS NULL")),)
    connector: Mapped[str] = mapped_column(primary_key=True)
    # The system's own ID of the message: what comes twice is a replay.
    delivery_id: Mapped[str] = mapped_column(primary_key=True)
    # The model that it is about; NULL for any.
    model: Mapped[str | None]
    received_at: Mapped[Created]
    taken_at: Mapped[datetime | None]


class Tally(Base):
    """A count of events whose rows are deleted in time, so that a counter never decreases."""

    __tablename__ = "tallies"
    name: Mapped[str] = mapped_column(primary_key=True)
    label: Mapped[str] = mapped_column(primary_key=True)
    value: Mapped[int] = mapped_column(BigInteger, server_default=text("0"))
