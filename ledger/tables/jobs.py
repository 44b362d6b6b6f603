"""Jobs, the attempts at them, their reports, and the heartbeats of the workers."""

from datetime import datetime
from uuid import UUID

from sqlalchemy import (
    JSON,
    CheckConstraint,
    ColumnElement,
    ForeignKey,
    Index,
    Integer,
    UniqueConstraint,
    cast,
    func,
    text,
)
from sqlalchemy.ext.hybrid import hybrid_property
from sqlalchemy.orm import Mapped, mapped_column

from ledger.states import LEASED, AttemptOutcome, ClosingReason, Escalation, JobState, Phase, Reason, Verdict
from ledger.tables.base import Base, Created, Json, Key, Sha256, choice


class Job(Base):
    """One unlearning run of one model, for one or more requests. `attempt` is the fencing token of the lease."""

    __tablename__ = "jobs"
    __table_args__ = (
        Index(
            "uq_jobs_one_active_a_model",
            "model_id",
            unique=True,
            postgresql_where=text(
                "state IN ('running', 'verifying') OR (state = 'awaiting_approval' AND phase = 'publish')"
            ),
        ),
        Index(
            "uq_jobs_one_open_a_model",
            "model_id",
            unique=True,
            postgresql_where=text("state = 'queued' AND frozen_at IS NULL"),
        ),
        CheckConstraint("(state IN ('running', 'verifying')) = (lease_until IS NOT NULL)", name="lease"),
        CheckConstraint("state <> 'awaiting_approval' OR phase IN ('waiting', 'publish')", name="approval"),
        CheckConstraint("(state IN ('completed', 'failed', 'cancelled')) = (finished_at IS NOT NULL)", name="finished"),
        CheckConstraint("frozen_at IS NOT NULL OR state IN ('queued', 'cancelled')", name="frozen"),
        CheckConstraint("progress BETWEEN 0 AND 1 AND attempt >= 1 AND tries >= 0", name="counts"),
        Index(None, "tenant_id", "created_at", "id"),
        Index(None, "model_id", "created_at"),
        Index("ix_jobs_open", "state", postgresql_where=text("finished_at IS NULL")),
    )
    id: Mapped[Key]
    tenant_id: Mapped[UUID] = mapped_column(ForeignKey("tenants.id"))
    model_id: Mapped[UUID] = mapped_column(ForeignKey("models.id"))
    state: Mapped[JobState] = mapped_column(choice(JobState, "state"), default=JobState.QUEUED)
    reason: Mapped[Reason | None] = mapped_column(choice(Reason, "reason"))
    detail: Mapped[str | None]
    # When it closes, that is, takes no more requests; and when it did.
    closes_at: Mapped[datetime] = mapped_column("cut_off")
    closing_reason: Mapped[ClosingReason] = mapped_column("cut_off_reason", choice(ClosingReason, "cut_off_reason"))
    closed_at: Mapped[datetime | None] = mapped_column("frozen_at")
    sample_count: Mapped[int | None]
    # The methods to try, and the current one, with the number of its claims since it last got further in `tries`.
    requested_method: Mapped[Json | None]
    policy: Mapped[list[Json]]
    policy_index: Mapped[int] = mapped_column(default=0)
    escalate: Mapped[Escalation] = mapped_column(
        choice(Escalation, "escalate"), server_default=text("'when_it_can_help'")
    )
    method: Mapped[Json]
    attempt: Mapped[int] = mapped_column(default=1)
    tries: Mapped[int] = mapped_column(default=0)
    # How often it has failed; a retry does not take it back.
    failures: Mapped[int] = mapped_column(server_default=text("0"))
    # When it may be tried again; and the furthest step of the current method from which it could resume.
    retry_at: Mapped[datetime | None]
    furthest_step: Mapped[int] = mapped_column(server_default=text("0"))
    # Why the current method followed the one before (`ledger.resources.Fallback`).
    fallback: Mapped[Json | None]
    # Its worker.
    worker: Mapped[str | None]
    lease_until: Mapped[datetime | None]
    # Who approved its run.
    approved_by: Mapped[str | None]
    approved_at: Mapped[datetime | None]
    cancel_requested: Mapped[bool] = mapped_column(default=False)
    base_version_id: Mapped[UUID | None] = mapped_column(ForeignKey("model_versions.id"))
    # The last training checkpoint (`ledger.jobs.checkpoints.TrainingCheckpoint`).
    checkpoint: Mapped[Json | None]
    # Its progress.
    phase: Mapped[Phase] = mapped_column(choice(Phase, "phase"), default=Phase.WAITING)
    progress: Mapped[float] = mapped_column(default=0.0)
    step: Mapped[int] = mapped_column(default=0)
    total: Mapped[int] = mapped_column(default=0)
    eta_seconds: Mapped[float | None]
    metrics: Mapped[Json] = mapped_column(default=dict)
    timings: Mapped[Json] = mapped_column(default=dict)
    # The span of the call that opened it, as a W3C traceparent, where traces are on.
    traceparent: Mapped[str | None]
    created_at: Mapped[Created]
    started_at: Mapped[datetime | None]
    finished_at: Mapped[datetime | None]
    updated_at: Mapped[datetime] = mapped_column(server_default=func.clock_timestamp(), onupdate=func.clock_timestamp())

    @hybrid_property
    def holds_model(self) -> bool:
        """Whether no other job of the model may start: a worker runs this one, or its version awaits approval."""
        return self.state in LEASED or (self.state == JobState.AWAITING_APPROVAL and self.phase == Phase.PUBLISH)

    @holds_model.inplace.expression
    @classmethod
    def _holds_model(cls) -> ColumnElement[bool]:
        return cls.state.in_(LEASED) | ((cls.state == JobState.AWAITING_APPROVAL) & (cls.phase == Phase.PUBLISH))


class Attempt(Base):
    """One try of a worker at a job, with its method and its outcome."""

    __tablename__ = "attempts"
    job_id: Mapped[UUID] = mapped_column(ForeignKey("jobs.id"), primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    method: Mapped[Json]
    worker: Mapped[str]
    outcome: Mapped[AttemptOutcome | None] = mapped_column(choice(AttemptOutcome, "outcome"))
    reason: Mapped[Reason | None] = mapped_column(choice(Reason, "reason"))
    detail: Mapped[str | None]
    finding: Mapped[Json | None]
    # Seconds by stage, and those of earlier attempts under the same claim.
    timings: Mapped[Json] = mapped_column(default=dict)
    timings_before: Mapped[Json] = mapped_column(default=dict)
    # How often its worker tried to write after its lease had expired.
    refused_writes: Mapped[int] = mapped_column(server_default=text("0"))
    started_at: Mapped[Created]
    finished_at: Mapped[datetime | None]


class Report(Base):
    """The report of a published job. The body is JSON as text, so that its digest can be computed again from it."""

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
    # The signed DSSE envelope. None if the worker had no signing key.
    statement: Mapped[Json | None] = mapped_column(JSON(none_as_null=True))
    created_at: Mapped[Created]

    @hybrid_property
    def samples(self) -> int:
        """How many samples its job has unlearned: those of its requests that the model knew, as the report states them."""
        return int(self.body["asked"]["samples"])

    @samples.inplace.expression
    @classmethod
    def _samples(cls) -> ColumnElement[int]:
        return cast(cls.body["asked", "samples"].as_string(), Integer)


class Heartbeat(Base):
    """When a recurring act happened last, by the name of the act and the database's clock, and what it measured."""

    __tablename__ = "heartbeats"
    name: Mapped[str] = mapped_column(primary_key=True)
    details: Mapped[Json | None]
    at: Mapped[datetime] = mapped_column(server_default=func.clock_timestamp())
