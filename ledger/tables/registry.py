"""Tenants, API keys, datasets, models and model versions."""

from datetime import datetime
from uuid import UUID

from sqlalchemy import JSON, BigInteger, CheckConstraint, ForeignKey, UniqueConstraint, text
from sqlalchemy.orm import Mapped, mapped_column

from ledger.states import Escalation, VersionKind
from ledger.tables.base import Base, Created, Json, Key, Sha256, choice


class Tenant(Base):
    """The owner of keys, datasets, models and requests. Tenants never see one another."""

    __tablename__ = "tenants"
    id: Mapped[Key]
    name: Mapped[str] = mapped_column(unique=True)
    created_at: Mapped[Created]


class ApiKey(Base):
    """An API key. It is found by its prefix and checked against the hash of its secret."""

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


class SampleKey(Base):
    """Which key the hashes of samples and subjects are under: one row, from the first hash on. The key itself is not stored."""

    __tablename__ = "sample_keys"
    __table_args__ = (CheckConstraint("id = 1", name="one"),)
    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    fingerprint: Mapped[str]
    changed_at: Mapped[Created]


class ConsoleSession(Base):
    """A browser that has shown an API key to the console. It is deleted when one signs out, and some time after it has expired."""

    __tablename__ = "console_sessions"
    id: Mapped[Key]
    key_id: Mapped[UUID] = mapped_column(ForeignKey("api_keys.id"), index=True)
    created_at: Mapped[Created]
    expires_at: Mapped[datetime] = mapped_column(index=True)


class Dataset(Base):
    """A named set of samples."""

    __tablename__ = "datasets"
    __table_args__ = (UniqueConstraint("tenant_id", "name"),)
    id: Mapped[Key]
    tenant_id: Mapped[UUID] = mapped_column(ForeignKey("tenants.id"))
    name: Mapped[str]
    sample_count: Mapped[int] = mapped_column(BigInteger, server_default=text("0"))
    # How many people its samples belong to, as far as that is known.
    subject_count: Mapped[int] = mapped_column(BigInteger, server_default=text("0"))
    created_at: Mapped[Created]


class Model(Base):
    """A served model: the workload that builds it, its dataset, and its policy, the methods to try in order."""

    __tablename__ = "models"
    __table_args__ = (
        UniqueConstraint("tenant_id", "name"),
        CheckConstraint("approve_utility_drop BETWEEN 0 AND 100", name="approve_utility_drop"),
        CheckConstraint("batch_until_samples > 0", name="batch_until_samples"),
    )
    id: Mapped[Key]
    tenant_id: Mapped[UUID] = mapped_column(ForeignKey("tenants.id"))
    dataset_id: Mapped[UUID] = mapped_column(ForeignKey("datasets.id"), index=True)
    name: Mapped[str]
    workload: Mapped[str]
    policy: Mapped[list[Json]]
    details: Mapped[Json]
    training_count: Mapped[int] = mapped_column(BigInteger)
    # How many of its training samples other models of the dataset had erased before it was registered.
    trained_on_erased: Mapped[int] = mapped_column(BigInteger, server_default=text("0"))
    # Whether approval is needed before a job runs, and before its version is served.
    approve_jobs: Mapped[bool] = mapped_column(server_default=text("false"))
    approve_versions: Mapped[bool] = mapped_column(server_default=text("false"))
    # A version that lost more merit, in points beyond what less data explains, needs approval whatever made it.
    approve_utility_drop: Mapped[float] = mapped_column(server_default=text("2.0"))
    # What a job does after an inconclusive verdict, where no request asks for more.
    escalate: Mapped[Escalation] = mapped_column(
        choice(Escalation, "escalate"), server_default=text("'when_it_can_help'")
    )
    # With fewer samples a job stays open for more, until the last moment at which it can start in time.
    batch_until_samples: Mapped[int | None]
    served_version_id: Mapped[UUID | None] = mapped_column(ForeignKey("model_versions.id", use_alter=True))
    # What methods may need and it does not have (`unlearning.specs.suitability.Need`); null: not known.
    lacks: Mapped[list[str] | None]
    # When a worker was last asked whether it can build the model, when it began and when it had found out, and what does not work.
    check_asked_at: Mapped[datetime | None]
    check_started_at: Mapped[datetime | None]
    check_ended_at: Mapped[datetime | None]
    check_fault: Mapped[str | None]
    created_at: Mapped[Created]


class ModelVersion(Base):
    """Weights by their SHA-256. The model names the served version; a job publishes at most one."""

    __tablename__ = "model_versions"
    __table_args__ = (
        UniqueConstraint("model_id", "number"),
        UniqueConstraint("job_id"),
        CheckConstraint("weights_sha256 ~ '^[0-9a-f]{64}$'", name="weights_sha256"),
    )
    id: Mapped[Key]
    model_id: Mapped[UUID] = mapped_column(ForeignKey("models.id"))
    number: Mapped[int]
    kind: Mapped[VersionKind] = mapped_column(choice(VersionKind, "kind"))
    weights_sha256: Mapped[Sha256]
    weights_path: Mapped[str]
    job_id: Mapped[UUID | None] = mapped_column(ForeignKey("jobs.id", use_alter=True))
    # When an approver refused to serve it, or its job was cancelled while it awaited approval.
    refused_at: Mapped[datetime | None]
    # The bundle of OpenSSF model signing, where the operator has brought a key.
    signature: Mapped[Json | None] = mapped_column(JSON(none_as_null=True))
    # While it awaits approval, the files that become the model's with it; then those to delete (`ledger.registry.retention`).
    held_files: Mapped[Json | None]
    # Whether it knows a sample that was erased from the model since.
    knows_erased: Mapped[bool] = mapped_column(server_default=text("false"))
    # When its weights were deleted. The row stays, because reports name it.
    purged_at: Mapped[datetime | None]
    created_at: Mapped[Created]


class WeightFetch(Base):
    """That the weights of a version were sent to the owner of an API key."""

    __tablename__ = "weight_fetches"
    id: Mapped[Key]
    version_id: Mapped[UUID] = mapped_column(ForeignKey("model_versions.id"), index=True)
    key_id: Mapped[UUID] = mapped_column(ForeignKey("api_keys.id"))
    at: Mapped[Created]


class ReferenceSet(Base):
    """The file with a model's reference predictions, by its SHA-256. Each erasure replaces it by one without the erased rows."""

    __tablename__ = "reference_sets"
    __table_args__ = (CheckConstraint("sha256 ~ '^[0-9a-f]{64}$'", name="sha256"),)
    model_id: Mapped[UUID] = mapped_column(ForeignKey("models.id"), primary_key=True)
    sha256: Mapped[Sha256]
    path: Mapped[str]
    details: Mapped[Json]
    created_at: Mapped[Created]
