"""Requests, their targets, uploads and idempotency keys."""

from datetime import datetime
from uuid import UUID

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    ColumnElement,
    ForeignKey,
    Index,
    Text,
    UniqueConstraint,
    and_,
    exists,
    func,
    literal_column,
    or_,
    text,
)
from sqlalchemy.orm import Mapped, aliased, mapped_column

from ledger.states import Escalation, ManagedState, Reason, RequestState
from ledger.tables.base import Base, Created, Json, Key, Sha256, choice


class UnlearnRequest(Base):
    """A request to erase samples, and its deadline."""

    __tablename__ = "unlearn_requests"
    __table_args__ = (
        CheckConstraint(
            "(state IN ('completed', 'failed', 'cancelled', 'rejected')) = (finished_at IS NOT NULL)", name="finished"
        ),
        Index(None, "tenant_id", "created_at", "id"),
        CheckConstraint("num_nonnulls(dismissed_at, dismissed_by, dismissal_reason) IN (0, 3)", name="dismissal"),
        # Holds every request that is unserved (`UnlearnRequest.is_unserved`), and the cancelled ones.
        Index(
            "ix_unlearn_requests_unserved_due_at",
            "due_at",
            postgresql_where=text("dismissed_at IS NULL AND (finished_at IS NULL OR state IN ('failed', 'cancelled'))"),
        ),
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
    # Seconds east of UTC of the receipt's zone; not known of requests from before it was kept.
    received_offset: Mapped[int | None]
    due_at: Mapped[datetime]
    extension_reason: Mapped[str | None]
    # How often it has failed, and how often after its deadline; neither a retry nor a withdrawal takes it back.
    failures: Mapped[int] = mapped_column(server_default=text("0"))
    late_failures: Mapped[int] = mapped_column(server_default=text("0"))
    # When it was found unserved after its deadline.
    overdue_at: Mapped[datetime | None]
    # Who decided that a request that failed is no longer owed, and why.
    dismissed_at: Mapped[datetime | None]
    dismissed_by: Mapped[str | None]
    dismissal_reason: Mapped[str | None]
    external_id: Mapped[str | None]
    expedite: Mapped[bool]
    # None for the models' own settings.
    escalate: Mapped[Escalation | None] = mapped_column(choice(Escalation, "escalate"))
    accepted: Mapped[int] = mapped_column(default=0)
    already_erased: Mapped[int] = mapped_column(default=0)
    not_in_training_set: Mapped[int] = mapped_column(default=0)
    # Whether it concerns every dataset of the tenant, also those that come later.
    every_dataset: Mapped[bool] = mapped_column(server_default=text("false"), default=False)
    # Whether it named no models, and so concerns every model of its datasets; not known of requests from before this was kept.
    every_model: Mapped[bool] = mapped_column(server_default=text("false"), default=False)
    # How many people it names, and how many of them had samples; None for one that names samples alone.
    subjects_given: Mapped[int | None]
    subjects_matched: Mapped[int | None]
    created_at: Mapped[Created]
    finished_at: Mapped[datetime | None]

    @classmethod
    def is_unserved(cls) -> ColumnElement[bool]:
        """Select what the law still asks for: neither served nor withdrawn nor dismissed, whatever became of its jobs.

        A request is unserved while it is open, after it has failed for a model, and after an approver has refused the run of a job.
        The states are constants in the statement, so that PostgreSQL can use the partial index.
        """
        failed, cancelled, refused = (
            literal_column(f"'{value}'", Text)
            for value in (RequestState.FAILED, RequestState.CANCELLED, Reason.APPROVAL_REFUSED)
        )
        target = aliased(Target)  # a statement may select targets of its own
        run_refused = exists().where(target.request_id == cls.id, target.state == cancelled, target.reason == refused)
        return and_(
            cls.dismissed_at.is_(None),
            or_(
                cls.finished_at.is_(None), cls.state == failed, and_(cls.state == cancelled, run_refused.correlate(cls))
            ),
        )


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


class ManagedRequest(Base):
    """A request that came from a request manager, under its own reference, whether or not anybody in it has samples here."""

    __tablename__ = "managed_requests"
    __table_args__ = (Index(None, "tenant_id", "manager", "body_sha256"),)
    tenant_id: Mapped[UUID] = mapped_column(ForeignKey("tenants.id"), primary_key=True)
    manager: Mapped[str] = mapped_column(primary_key=True)
    reference: Mapped[str] = mapped_column(primary_key=True)
    body_sha256: Mapped[Sha256]
    # None if no model was trained on any sample of these people.
    request_id: Mapped[UUID | None] = mapped_column(ForeignKey("unlearn_requests.id"), unique=True)
    due_at: Mapped[datetime]
    # Until then its state is pending, whatever happens, so that the speed of an answer does not tell who is known.
    quiet_until: Mapped[datetime]
    callback_urls: Mapped[list[str]]
    # What its manager wants back with the result, sealed, until the result is sent; None for managers without such a thing.
    reply: Mapped[bytes | None]
    # The state of the last callbacks; None before the first.
    reported: Mapped[ManagedState | None] = mapped_column(choice(ManagedState, "reported"), index=True)
    cancelled_at: Mapped[datetime | None]
    created_at: Mapped[Created]


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
    """An uploaded list of samples of one dataset, or of subjects. Its row is written last; requests copy from it.

    It is kept for some days.
    """

    __tablename__ = "uploaded_manifests"
    __table_args__ = (CheckConstraint("samples > 0", name="samples"),)
    id: Mapped[Key]
    tenant_id: Mapped[UUID] = mapped_column(ForeignKey("tenants.id"), index=True)
    # None for a list of subjects, which belong to no dataset.
    dataset_id: Mapped[UUID | None] = mapped_column(ForeignKey("datasets.id"))
    # How many it holds, of either.
    samples: Mapped[int] = mapped_column(BigInteger)
    sha256: Mapped[Sha256]
    created_at: Mapped[Created]
