"""What happened, and what the audit found."""

from uuid import UUID

from sqlalchemy import JSON, BigInteger, CheckConstraint, ForeignKey, Identity, Index, UniqueConstraint, text
from sqlalchemy.orm import Mapped, mapped_column

from ledger.states import Verdict
from ledger.tables.base import Base, Created, Json, Key, Sha256, choice


class Event(Base):
    """Something that happened to a job, to a request or to a model; never changed, never deleted."""

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


class Report(Base):
    """What the audit of a published job found. The body is JSON as text, so that its digest can be computed again from it."""

    __tablename__ = "reports"
    __table_args__ = (
        UniqueConstraint("job_id"),
        UniqueConstraint("version_id"),
        CheckConstraint("sha256 ~ '^[0-9a-f]{64}$'", name="sha256"),
    )
    id: Mapped[Key]
    tenant_id: Mapped[UUID] = mapped_column(ForeignKey("tenants.id"))
    job_id: Mapped[UUID] = mapped_column(ForeignKey("jobs.id"))
    version_id: Mapped[UUID] = mapped_column(ForeignKey("model_versions.id"))
    verdict: Mapped[Verdict] = mapped_column(choice(Verdict, "verdict"))
    sha256: Mapped[Sha256]
    body: Mapped[Json] = mapped_column(JSON)
    # The signed DSSE envelope; None where the worker had no signing key.
    statement: Mapped[Json | None] = mapped_column(JSON(none_as_null=True))
    created_at: Mapped[Created]
