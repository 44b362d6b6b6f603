"""What was asked."""

from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    Enum,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    Subquery,
    Table,
    UniqueConstraint,
    cast,
    func,
    literal,
    select,
    text,
)
from sqlalchemy.orm import Mapped, mapped_column

from ledger.states import Reason, RequestState, SampleOutcome
from ledger.tables.base import Base, Created, Json, Key, Sha256, choice


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
    state: Mapped[RequestState] = mapped_column(choice(RequestState, "state"), default=RequestState.RECEIVED)
    method: Mapped[Json | None]
    reason: Mapped[str | None]
    regulation: Mapped[str]
    received_at: Mapped[datetime]
    due_at: Mapped[datetime]
    extension_reason: Mapped[str | None]
    # When it was noticed that its date had passed while it was open.
    overdue_at: Mapped[datetime | None]
    external_id: Mapped[str | None]
    expedite: Mapped[bool]
    accepted: Mapped[int] = mapped_column(default=0)
    already_erased: Mapped[int] = mapped_column(default=0)
    not_in_training_set: Mapped[int] = mapped_column(default=0)
    created_at: Mapped[Created]
    finished_at: Mapped[datetime | None]


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
    state: Mapped[RequestState] = mapped_column(choice(RequestState, "state"), default=RequestState.RECEIVED)
    reason: Mapped[Reason | None] = mapped_column(choice(Reason, "reason"))
    detail: Mapped[str | None]
    accepted: Mapped[int]
    already_erased: Mapped[int]
    not_in_training_set: Mapped[int]
    created_at: Mapped[Created]
    finished_at: Mapped[datetime | None]


def _of(owner: str, table: str) -> Column[object]:
    """The first half of the key: whose list it is."""
    return Column(owner, ForeignKey(f"{table}.id"), primary_key=True)


def _digest() -> Column[bytes]:
    """The second half of the key: the sample's keyed hash, 32 bytes (see samples.py)."""
    return Column("digest", LargeBinary, primary_key=True)


samples = Table("samples", Base.metadata, _of("dataset_id", "datasets"), _digest())
"""The samples of each dataset."""

training_samples = Table(
    "training_samples",
    Base.metadata,
    _of("model_id", "models"),
    _digest(),
    Column("in_first", Boolean, nullable=False, server_default=text("true")),
)
"""What any version of each model was trained on; `in_first` tells its first one."""

version_samples = Table("version_samples", Base.metadata, _of("version_id", "model_versions"), _digest())
"""What each version that was trained after the first was trained on."""

erased_samples = Table(
    "erased_samples",
    Base.metadata,
    _of("model_id", "models"),
    _digest(),
    Column("job_id", ForeignKey("jobs.id"), nullable=False, index=True),
    Column("version_id", ForeignKey("model_versions.id"), nullable=False),
)
"""What each model has forgotten, and must never be shown again."""

request_samples = Table(
    "request_samples",
    Base.metadata,
    _of("request_id", "unlearn_requests"),
    _digest(),
    Column(
        "outcome",
        Enum(
            SampleOutcome,
            name="outcome",
            native_enum=False,
            create_constraint=True,
            length=32,
            values_callable=lambda kind: [m.value for m in kind],
        ),
        nullable=False,
    ),
)
"""What each request asked for, with what that means."""

job_samples = Table("job_samples", Base.metadata, _of("job_id", "jobs"), _digest())
"""The manifest of each job, frozen at its cut-off."""

commitment_leaves = Table(
    "manifest_leaves",
    Base.metadata,
    _of("job_id", "jobs"),
    Column("place", Integer, primary_key=True, autoincrement=False),
    Column("leaf", LargeBinary, nullable=False),
    Column("digest", LargeBinary),
    Column("salt", LargeBinary),
    CheckConstraint("(digest IS NULL) = (salt IS NULL)", name="opening"),
    Index("uq_manifest_leaves_job_id_digest", "job_id", "digest", unique=True),
)
"""The leaves of each published job's manifest tree, in order. Without its digest and salt a leaf tells nobody whose it is."""

DIGEST_BYTES = 32


def as_rows(digests: Sequence[bytes]) -> Subquery:
    """The digests as a table with the column `digest`, for a statement to join or insert from.

    They travel as one value that the database cuts up: 100,000 take a third of a second, half of what an array takes.
    Raises ValueError for a digest that is not 32 bytes long.
    """
    packed = b"".join(digests)
    if len(packed) != DIGEST_BYTES * len(digests) or any(len(digest) != DIGEST_BYTES for digest in digests):
        raise ValueError(f"a digest must be {DIGEST_BYTES} bytes long (see ledger.sample_ids.sample_digest)")
    place = func.generate_series(0, len(digests) - 1).column_valued("place")
    return select(
        func.substring(cast(literal(packed), LargeBinary), place * DIGEST_BYTES + 1, DIGEST_BYTES).label("digest")
    ).subquery()


class Upload(Base):
    """A list for one dataset, complete when its row is there. It is kept for some days; what is asked with it is copied."""

    __tablename__ = "uploaded_manifests"
    __table_args__ = (CheckConstraint("samples > 0", name="samples"),)
    id: Mapped[Key]
    tenant_id: Mapped[UUID] = mapped_column(ForeignKey("tenants.id"), index=True)
    dataset_id: Mapped[UUID] = mapped_column(ForeignKey("datasets.id"))
    samples: Mapped[int] = mapped_column(BigInteger)
    sha256: Mapped[Sha256]
    created_at: Mapped[Created]


uploaded_samples = Table(
    "uploaded_samples",
    Base.metadata,
    # No foreign key: the rows come first, and a check a row would cost more than all the rest.
    Column("manifest_id", Upload.__table__.c.id.type, primary_key=True),
    Column("digest", LargeBinary, primary_key=True),
)
"""What each uploaded manifest holds, each sample once."""
