"""Sets of samples, by keyed hash: of datasets, models, versions, requests, jobs and uploads."""

from typing import Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    Table,
    Uuid,
    text,
)

from ledger.states import SampleOutcome
from ledger.tables.base import Base, choice

SEALED_BESIDE = "sealed beside"
"""In the `info` of a column of 32 sealed bytes: the column beside which they are sealed (`ledger.sample_ids.seal`)."""


def _of(owner: str, table: str) -> Column[object]:
    """The first half of the key: the owner of the set."""
    return Column(owner, ForeignKey(f"{table}.id"), primary_key=True)


def _digest() -> Column[bytes]:
    """The second half of the key: the sample's keyed hash, 32 bytes (`ledger.sample_ids`)."""
    return Column("digest", LargeBinary, primary_key=True)


def _leaves(name: str, digest_name: str, *more: Column[Any]) -> Table:
    """The leaves of each published job's commitment, in order. A leaf without its digest and salt is linked to nobody."""
    return Table(
        name,
        Base.metadata,
        _of("job_id", "jobs"),
        Column("place", Integer, primary_key=True, autoincrement=False),
        Column("leaf", LargeBinary, nullable=False),
        Column(digest_name, LargeBinary),
        Column("salt", LargeBinary, info={SEALED_BESIDE: "leaf"}),
        *more,
        CheckConstraint(f"({digest_name} IS NULL) = (salt IS NULL)", name="opening"),
        Index(f"uq_{name}_job_id_{digest_name}", "job_id", digest_name, unique=True),
    )


samples = Table("samples", Base.metadata, _of("dataset_id", "datasets"), _digest())
"""The samples of each dataset."""

subject_samples = Table(
    "subject_samples",
    Base.metadata,
    # No foreign key: these rows come by the million, and a check of each would cost more than everything else.
    Column("subject", LargeBinary, primary_key=True),
    Column("dataset_id", Uuid, primary_key=True),
    _digest(),
)
"""The samples of each subject: the subject's keyed hash, which is the same in all datasets, then the sample."""

training_samples = Table(
    "training_samples",
    Base.metadata,
    _of("model_id", "models"),
    _digest(),
    Column("in_first", Boolean, nullable=False, server_default=text("true")),
)
"""The training samples of each model, over all of its versions. `in_first` marks those of its first version."""

version_samples = Table("version_samples", Base.metadata, _of("version_id", "model_versions"), _digest())
"""The training samples of each version that was trained after the first."""

erased_samples = Table(
    "erased_samples",
    Base.metadata,
    _of("model_id", "models"),
    _digest(),
    Column("job_id", ForeignKey("jobs.id"), nullable=False, index=True),
    Column("version_id", ForeignKey("model_versions.id"), nullable=False),
)
"""The samples that each model has forgotten and must never see again."""

request_samples = Table(
    "request_samples",
    Base.metadata,
    _of("request_id", "unlearn_requests"),
    _digest(),
    Column(
        "outcome",
        choice(SampleOutcome, "outcome"),
        nullable=False,
    ),
)
"""The samples of each request, with their outcome."""

request_subjects = Table(
    "request_subjects",
    Base.metadata,
    _of("request_id", "unlearn_requests"),
    Column("subject", LargeBinary, primary_key=True),
    Column("samples", BigInteger, nullable=False),
    Column("commitment", LargeBinary, info={SEALED_BESIDE: "subject"}),
)
"""The subjects that each request names, with how many samples each had in the request's datasets when it came.

The sealed commitment goes into reports; requests from before this was kept have none.
"""

request_subject_samples = Table(
    "request_subject_samples",
    Base.metadata,
    # No foreign key: see `subject_samples`.
    Column("request_id", Uuid, primary_key=True),
    Column("subject", LargeBinary, primary_key=True),
    _digest(),
)
"""The samples that each subject of a request had in its datasets when it came, whatever is assigned or replaced later."""

request_datasets = Table(
    "request_datasets", Base.metadata, _of("request_id", "unlearn_requests"), _of("dataset_id", "datasets")
)
"""The datasets of a request that concerns several, beside the one that its own row names."""

job_samples = Table("job_samples", Base.metadata, _of("job_id", "jobs"), _digest())
"""The samples of each job, fixed when it closes."""

commitment_leaves = _leaves(
    "manifest_leaves", "digest", Column("sealed", Boolean, nullable=False, server_default=text("false"))
)
"""The leaves of the samples that each job has erased.

With the salt as it is, a reader of the ledger could try IDs; leaves from before it was sealed are sealed by the next rotation.
"""

subject_leaves = _leaves("subject_leaves", "subject")
"""The leaves of the people whose samples each job has erased and who asked for it by name."""

uploaded_samples = Table(
    "uploaded_samples",
    Base.metadata,
    # No foreign key: these rows are written first, and a check of each row would cost more than everything else.
    Column("manifest_id", Uuid, key="upload_id", primary_key=True),
    Column("digest", LargeBinary, primary_key=True),
    Column("line", BigInteger),
    Column("commitment", LargeBinary, info={SEALED_BESIDE: "digest"}),
)
"""The samples or subjects of each upload, each once with its first line; uploads from before that was kept have none."""
