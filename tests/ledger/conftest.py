"""A small world for the ledger's tests: one tenant, a dataset, models, and the moves of a worker."""

from dataclasses import dataclass
from uuid import UUID

import pytest
from sqlalchemy.orm import Session, sessionmaker

from ledger.access import ensure_tenant
from ledger.datasets import register_dataset
from ledger.models import register_model
from ledger.samples import sample_digest

KEY = bytes(32)
LTU = {"kind": "ltu", "rate": 0.1}
IEU = {"kind": "ieu"}
WEIGHTS = "ab" * 32


def digests(*numbers: int) -> list[bytes]:
    """The digests of the samples with these numbers."""
    return [sample_digest(KEY, "digits", f"person-{number}") for number in numbers]


@dataclass(frozen=True)
class World:
    """A tenant with the dataset `digits` (100 samples) and the models `small` (samples 0–79) and `large` (0–99)."""

    sessions: sessionmaker[Session]
    tenant_id: UUID


@pytest.fixture
def world(sessions):
    with sessions.begin() as session:
        tenant_id = ensure_tenant(session, "hospital")
        register_dataset(session, tenant_id=tenant_id, name="digits", digests=digests(*range(100)))
        for name, training in (("small", range(80)), ("large", range(100))):
            register_model(
                session,
                tenant_id=tenant_id,
                name=name,
                dataset="digits",
                workload="examples.digits:workload",
                training=digests(*training),
                weights_sha256=WEIGHTS,
                weights_path="/weights/first.safetensors",
                policy=[LTU, IEU],
                details={"training_seconds": 12.5},
            )
    return World(sessions, tenant_id)
