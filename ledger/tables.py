"""The tables of what was asked and what happened; the long lists of samples are in sample_tables.py."""

from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any
from uuid import UUID, uuid4

from sqlalchemy import (
    JSON,
    BigInteger,
    CheckConstraint,
    DateTime,
    Enum,
    ForeignKey,
    Identity,
    Index,
    MetaData,
    Text,
    UniqueConstraint,
    func,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY, JSONB
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from ledger.states import AttemptOutcome, CutOffReason, JobState, Phase, Reason, RequestState, Verdict, VersionKind

NAMES = {
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
    "fk": "fk_%(table_name)s_%(column_0_N_name)s",
    "pk": "pk_%(table_name)s",
}

Json = dict[str, Any]
Key = Annotated[UUID, mapped_column(primary_key=True, default=uuid4)]
Created = Annotated[datetime, mapped_column(server_default=func.clock_timestamp())]
Sha256 = Annotated[str, mapped_column(Text)]


class Base(DeclarativeBase):
    """The declarative base: text without a length, aware times, JSONB."""

    metadata = MetaData(naming_convention=NAMES)
    type_annotation_map = {  # noqa: RUF012  (SQLAlchemy's name and shape)
        str: Text,
        datetime: DateTime(timezone=True),
        Json: JSONB(none_as_null=True),
        list[Json]: JSONB(none_as_null=True),
        list[str]: ARRAY(Text),
    }


def _choice(members: type[StrEnum], name: str) -> Enum:
    """A text column that the database keeps within a closed set."""
    return Enum(
        members,
        name=name,
        native_enum=False,
        create_constraint=True,
        length=32,
        values_callable=lambda kind: [m.value for m in kind],
    )


class Tenant(Base):
    """Who owns keys, datasets, models and requests; tenants never see one another."""

    __tablename__ = "tenants"
    id: Mapped[Key]
    name: Mapped[str] = mapped_column(unique=True)
    created_at: Mapped[Created]


class ApiKey(Base):
    """A caller's key: found by its prefix, checked against the hash of its secret."""

    __tablename__ = "api_keys"
    id: Mapped[Key]
    tenant_id: Mapped[UUID] = mapped_column(ForeignKey("tenants.id"), index=True)
    name: Mapped[str]
    prefix: Mapped[str] = mapped_column(unique=True)
    secret_sha256: Mapped[bytes]
    scopes: Mapped[list[str]]
    created_at: Mapped[Created]
    expires_at: Mapped[datetime | None]
    revoked_at: Mapped[datetime | None]


class Dataset(Base):
    """A named set of samples."""

    __tablename__ = "datasets"
    __table_args__ = (UniqueConstraint("tenant_id", "name"),)
    id: Mapped[Key]
    tenant_id: Mapped[UUID] = mapped_column(ForeignKey("tenants.id"))
    name: Mapped[str]
    sample_count: Mapped[int] = mapped_column(BigInteger, server_default=text("0"))
    created_at: Mapped[Created]


class Model(Base):
    """A served model: what builds it, what it was trained on, and the methods to try, in order."""

    __tablename__ = "models"
    __table_args__ = (UniqueConstraint("tenant_id", "name"),)
    id: Mapped[Key]
    tenant_id: Mapped[UUID] = mapped_column(ForeignKey("tenants.id"))
    dataset_id: Mapped[UUID] = mapped_column(ForeignKey("datasets.id"), index=True)
    name: Mapped[str]
    workload: Mapped[str]
    policy: Mapped[list[Json]]
    details: Mapped[Json]
    training_count: Mapped[int] = mapped_column(BigInteger)
    created_at: Mapped[Created]


class ModelVersion(Base):
    """Weights by their SHA-256. The newest is the one that is served; a job publishes at most one."""

    __tablename__ = "model_versions"
    __table_args__ = (
        UniqueConstraint("model_id", "number"),
        UniqueConstraint("job_id"),
        CheckConstraint("weights_sha256 ~ '^[0-9a-f]{64}$'", name="weights_sha256"),
    )
    id: Mapped[Key]
    model_id: Mapped[UUID] = mapped_column(ForeignKey("models.id"))
    number: Mapped[int]
    kind: Mapped[VersionKind] = mapped_column(_choice(VersionKind, "kind"))
    weights_sha256: Mapped[Sha256]
    weights_path: Mapped[str]
    job_id: Mapped[UUID | None] = mapped_column(ForeignKey("jobs.id", use_alter=True))
    created_at: Mapped[Created]


class UnlearnRequest(Base):
    """What was asked, and by when it is due."""

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
    state: Mapped[RequestState] = mapped_column(_choice(RequestState, "state"), default=RequestState.RECEIVED)
    method: Mapped[Json | None]
    reason: Mapped[str | None]
    regulation: Mapped[str]
    received_at: Mapped[datetime]
    due_at: Mapped[datetime]
    extension_reason: Mapped[str | None]
    external_id: Mapped[str | None]
    expedite: Mapped[bool]
    accepted: Mapped[int] = mapped_column(default=0)
    already_erased: Mapped[int] = mapped_column(default=0)
    not_in_training_set: Mapped[int] = mapped_column(default=0)
    created_at: Mapped[Created]
    finished_at: Mapped[datetime | None]


class Job(Base):
    """One unlearning run of one model for one or many requests. `attempt` is the fencing token of whoever holds the lease."""

    __tablename__ = "jobs"
    __table_args__ = (
        Index(
            "uq_jobs_one_active_a_model",
            "model_id",
            unique=True,
            postgresql_where=text("state IN ('running', 'verifying')"),
        ),
        Index(
            "uq_jobs_one_open_a_model",
            "model_id",
            unique=True,
            postgresql_where=text("state = 'queued' AND frozen_at IS NULL"),
        ),
        CheckConstraint("(state IN ('running', 'verifying')) = (lease_until IS NOT NULL)", name="lease"),
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
    state: Mapped[JobState] = mapped_column(_choice(JobState, "state"), default=JobState.QUEUED)
    reason: Mapped[Reason | None] = mapped_column(_choice(Reason, "reason"))
    detail: Mapped[str | None]
    # When it takes its last request.
    cut_off: Mapped[datetime]
    cut_off_reason: Mapped[CutOffReason] = mapped_column(_choice(CutOffReason, "cut_off_reason"))
    frozen_at: Mapped[datetime | None]
    sample_count: Mapped[int | None]
    # What to try, and which of it is being tried: `tries` counts the claims of the current method.
    requested_method: Mapped[Json | None]
    policy: Mapped[list[Json]]
    policy_index: Mapped[int] = mapped_column(default=0)
    method: Mapped[Json]
    attempt: Mapped[int] = mapped_column(default=1)
    tries: Mapped[int] = mapped_column(default=0)
    # Who runs it.
    worker: Mapped[str | None]
    lease_until: Mapped[datetime | None]
    cancel_requested: Mapped[bool] = mapped_column(default=False)
    base_version_id: Mapped[UUID | None] = mapped_column(ForeignKey("model_versions.id"))
    # How far it is.
    phase: Mapped[Phase] = mapped_column(_choice(Phase, "phase"), default=Phase.WAITING)
    progress: Mapped[float] = mapped_column(default=0.0)
    step: Mapped[int] = mapped_column(default=0)
    total: Mapped[int] = mapped_column(default=0)
    eta_seconds: Mapped[float | None]
    metrics: Mapped[Json] = mapped_column(default=dict)
    timings: Mapped[Json] = mapped_column(default=dict)
    created_at: Mapped[Created]
    started_at: Mapped[datetime | None]
    finished_at: Mapped[datetime | None]
    updated_at: Mapped[datetime] = mapped_column(server_default=func.clock_timestamp(), onupdate=func.clock_timestamp())


class Target(Base):
    """One model that a request touches, with its own outcome."""

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
    state: Mapped[RequestState] = mapped_column(_choice(RequestState, "state"), default=RequestState.RECEIVED)
    reason: Mapped[Reason | None] = mapped_column(_choice(Reason, "reason"))
    detail: Mapped[str | None]
    accepted: Mapped[int]
    already_erased: Mapped[int]
    not_in_training_set: Mapped[int]
    created_at: Mapped[Created]
    finished_at: Mapped[datetime | None]


class Attempt(Base):
    """One worker's go at a job, with the method it ran and how that ended."""

    __tablename__ = "attempts"
    job_id: Mapped[UUID] = mapped_column(ForeignKey("jobs.id"), primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    method: Mapped[Json]
    worker: Mapped[str]
    outcome: Mapped[AttemptOutcome | None] = mapped_column(_choice(AttemptOutcome, "outcome"))
    reason: Mapped[Reason | None] = mapped_column(_choice(Reason, "reason"))
    detail: Mapped[str | None]
    finding: Mapped[Json | None]
    # Seconds by stage, and those that earlier attempts under the same claim had taken when this one began.
    timings: Mapped[Json] = mapped_column(default=dict)
    timings_before: Mapped[Json] = mapped_column(default=dict)
    started_at: Mapped[Created]
    finished_at: Mapped[datetime | None]


class Event(Base):
    """Something that happened to a job or to a request; never changed, never deleted."""

    __tablename__ = "events"
    __table_args__ = (
        CheckConstraint("num_nonnulls(job_id, request_id) = 1", name="subject"),
        Index(None, "job_id", "id"),
        Index(None, "request_id", "id"),
    )
    id: Mapped[int] = mapped_column(BigInteger, Identity(always=True), primary_key=True)
    job_id: Mapped[UUID | None] = mapped_column(ForeignKey("jobs.id"))
    request_id: Mapped[UUID | None] = mapped_column(ForeignKey("unlearn_requests.id"))
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
    verdict: Mapped[Verdict] = mapped_column(_choice(Verdict, "verdict"))
    sha256: Mapped[Sha256]
    body: Mapped[Json] = mapped_column(JSON)
    created_at: Mapped[Created]


class IdempotencyKey(Base):
    """Which request a caller's idempotency key stands for, for thirty days."""

    __tablename__ = "idempotency_keys"
    tenant_id: Mapped[UUID] = mapped_column(ForeignKey("tenants.id"), primary_key=True)
    caller: Mapped[str] = mapped_column(primary_key=True)
    key: Mapped[str] = mapped_column(primary_key=True)
    body_sha256: Mapped[Sha256]
    request_id: Mapped[UUID] = mapped_column(ForeignKey("unlearn_requests.id"))
    created_at: Mapped[datetime] = mapped_column(server_default=func.clock_timestamp(), index=True)
