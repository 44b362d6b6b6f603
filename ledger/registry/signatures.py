"""Signatures of versions' weights by the operator's own key, which other tools check (OpenSSF model signing)."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from sqlalchemy import select
from sqlalchemy.orm import Session

from ledger.errors import NotFound
from ledger.registry.models import find_model, find_served
from ledger.tables import ModelVersion


def find_served_signature(session: Session, *, tenant_id: UUID, model: str) -> tuple[int, dict[str, Any]]:
    """Read the signature of the weights that a model serves, and their version's number. Raises UnknownModel, NotFound."""
    served = find_served(session, tenant_id=tenant_id, model=model)
    if served.signature is None:
        raise NotFound(
            f"version {served.number} is not signed by a key of EXPUNGE_MODEL_SIGNING_KEY; the operator can run expunge sign"
        )
    return served.number, served.signature


@dataclass(frozen=True, slots=True, kw_only=True)
class SignableVersion:
    """A version whose weights are stored, and the signature of these if it has one.

    path: the name of the file in the storage. knows_erased: whether it knows samples that were erased since.
    """

    version_id: UUID
    number: int
    weights_sha256: str
    path: str
    signature: dict[str, Any] | None
    knows_erased: bool


def list_signable(session: Session, *, tenant_id: UUID, model: str) -> list[SignableVersion]:
    """List a model's versions whose weights were not purged, oldest first. Raises UnknownModel."""
    model_id = find_model(session, tenant_id=tenant_id, name=model).id
    stored = select(ModelVersion).where(ModelVersion.model_id == model_id, ModelVersion.purged_at.is_(None))
    return [
        SignableVersion(
            version_id=version.id,
            number=version.number,
            weights_sha256=version.weights_sha256,
            path=version.weights_path,
            signature=version.signature,
            knows_erased=version.knows_erased,
        )
        for version in session.scalars(stored.order_by(ModelVersion.number))
    ]


def set_signature(session: Session, version_id: UUID, signature: Mapping[str, Any]) -> None:
    """Give a version the signature of its weights, in place of an earlier one."""
    session.get_one(ModelVersion, version_id).signature = dict(signature)
