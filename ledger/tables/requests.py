"""Requests, their targets, uploads and idempotency keys."""

from datetime import datetime
from uuid import UUID

from sqlalchemy import BigInteger, CheckConstraint, ForeignKey, Index, UniqueConstraint, func, text
from sqlalchemy.orm import Mapped, mapped_column

from ledger.states import Reason, RequestState
from ledger.tables.base import Base, Created, Json, Key, Sha256, choice


class UnlearnRequest(Base):
    """A request to erase samples, and its deadline."""

    __tablename__ = "unlearn_requests"
    __table_args__ = (
        CheckConstraint(
            "(state IN ('completed', 'failed', 'cancelled', 'rejected')) = (finished_at IS NOT NULL)", name="finished"
        ),
        Index(None, "tenant_id", "created_at", "id"),
        Index("ix_unlearn_requests_open_due_at", "due_at", postgresql_where=text("finished_at IS NULL")),
    )
    id: Mapped[Key]
    tenant_id: Mapped[UUID] = mapped_column(ForeignKey("tenants.id"))
    dataset_id: Mapped[UUID] = mapped_column(ForeignKey("datasets.id"))
    caller: Mapped[str]
    state: Mapped[RequestState] = mapped_column(choice(RequestState, "state"), default=RequestState.RECEIVED)
    method: Mapped[Json | None]
    reason: Mapped[str | None]
    regulation: Mapped[str]
    received_at: Mapped[datetime]
    due_at: Mapped[datetime]
    extension_reason: Mapped[str | None]
    # When it was found open after its deadline.
    overdue_at: Mapped[datetime | None]
    external_id: Mapped[str | None]
    expedite: Mapped[bool]
    accepted: Mapped[int] = mapped_column(default=0)
    already_erased: Mapped[int] = mapped_column(default=0)
    not_in_training_set: Mapped[int] = mapped_column(default=0)
    created_at: Mapped[Created]
    finished_at: Mapped[datetime | None]


class Target(Base):
    """One model that a request concerns, with its own outcome."""

    __tablename__ = "targets"
    __table_args__ = (
        UniqueConstraint("request_id", "model_id"),
        CheckConstraint(
            "(state IN ('completed', 'failed', 'cancelled', 'rejected')) = (finished_at IS NOT NULL)", name="finished"
        ),
        CheckConstraint("state NOT IN ('scheduled', 'running', 'verifying') OR job_id IS NOT NULL", name="job"),
    )
    id: Mapped[Key]
    request_id: Mapped[UUID] = mapped_column(ForeignKey("unlearn_requests.id"))
    model_id: Mapped[UUID] = mapped_column(ForeignKey("models.id"), index=True)
    job_id: Mapped[UUID | None] = mapped_column(ForeignKey("jobs.id"), index=True)
    state: Mapped[RequestState] = mapped_column(choice(RequestState, "state"), default=RequestState.RECEIVED)
    reason: Mapped[Reason | None] = mapped_column(choice(Reason, "reason"))
    detail: Mapped[str | None]
    accepted: Mapped[int]
    already_erased: Mapped[int]
    not_in_training_set: Mapped[int]
    created_at: Mapped[Created]
    finished_at: Mapped[datetime | None]


class IdempotencyKey(Base):
    """The request that was made with a caller's idempotency key. It is kept for thirty days."""

    __tablename__ = "idempotency_keys"
    tenant_id: Mapped[UUID] = mapped_column(ForeignKey("tenants.id"), primary_key=True)
    caller: Mapped[str] = mapped_column(primary_key=True)
    key: Mapped[str] = mapped_column(primary_key=True)
    body_sha256: Mapped[Sha256]
    request_id: Mapped[UUID] = mapped_column(ForeignKey("unlearn_requests.id"))
    created_at: Mapped[datetime] = mapped_column(server_default=func.clock_timestamp(), index=True)


class Upload(Base):
    """An uploaded list of samples of one dataset. Its row is written last, and it is kept for some days; requests copy from it."""

    __tablename__ = "uploaded_manifests"
    __table_args__ = (CheckConstraint("samples > 0", name="samples"),)
    id: Mapped[Key]
    tenant_id: Mapped[UUID] = mapped_column(ForeignKey("tenants.id"), index=True)
    dataset_id: Mapped[UUID] = mapped_column(ForeignKey("datasets.id"))
    samples: Mapped[int] = mapped_column(BigInteger)
    sha256: Mapped[Sha256]
    created_at: Mapped[Created]
