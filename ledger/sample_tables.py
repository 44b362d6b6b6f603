"""The long lists of samples, by digest. Plain tables: they are written and read in bulk, never as objects."""

from sqlalchemy import Column, Enum, ForeignKey, LargeBinary, Table

from ledger.states import SampleOutcome
from ledger.tables import Base


def _of(owner: str, table: str) -> Column[object]:
    """The first half of the key: whose list it is."""
    return Column(owner, ForeignKey(f"{table}.id"), primary_key=True)


def _digest() -> Column[bytes]:
    """The second half of the key: the sample's keyed hash, 32 bytes (see samples.py)."""
    return Column("digest", LargeBinary, primary_key=True)


samples = Table("samples", Base.metadata, _of("dataset_id", "datasets"), _digest())
"""The samples of each dataset."""

training_samples = Table("training_samples", Base.metadata, _of("model_id", "models"), _digest())
"""What each model was trained on, in its first version."""

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
