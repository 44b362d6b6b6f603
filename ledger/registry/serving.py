"""What a model serves now, for servers that fetch the weights themselves, and who has fetched which version."""

from dataclasses import dataclass
from uuid import UUID

from sqlalchemy import select
from sqlalchemy.orm import Session

from ledger import resources
from ledger.errors import UnknownModel
from ledger.tables import Model, ModelVersion, Report, WeightFetch


@dataclass(frozen=True, slots=True, kw_only=True)
class ServedWeights:
    """The weights that a model serves now. path: the name of their file in the storage."""

    version_id: UUID
    version: int
    sha256: str
    path: str


def get_served_version(session: Session, *, tenant_id: UUID, model: str) -> resources.ServedVersion:
    """Read which version a model serves, and what its audit found. Raises UnknownModel."""
    found = (
        select(ModelVersion, Report.id, Report.verdict)
        .join(Model, Model.served_version_id == ModelVersion.id)
        .outerjoin(Report, Report.version_id == ModelVersion.id)
        .where(Model.tenant_id == tenant_id, Model.name == model)
    )
    row = session.execute(found).one_or_none()
    if row is None:
        raise UnknownModel(f"there is no model named {model!r}")
    version, report_id, verdict = row
    return resources.ServedVersion(
        model=model,
        version=version.number,
        weights_sha256=version.weights_sha256,
        report_id=report_id,
        verdict=verdict,
        created_at=version.created_at,
    )


def find_served_weights(session: Session, *, tenant_id: UUID, model: str) -> ServedWeights:
    """Find the weights that a model serves. Raises UnknownModel."""
    found = select(ModelVersion).join(Model, Model.served_version_id == ModelVersion.id)
    version = session.scalar(found.where(Model.tenant_id == tenant_id, Model.name == model))
    if version is None:
        raise UnknownModel(f"there is no model named {model!r}")
    return ServedWeights(
        version_id=version.id, version=version.number, sha256=version.weights_sha256, path=version.weights_path
    )


def record_fetch(session: Session, *, version_id: UUID, key_id: UUID) -> None:
    """Record that the weights of a version are sent to the owner of an API key."""
    session.add(WeightFetch(version_id=version_id, key_id=key_id))
    session.flush()
