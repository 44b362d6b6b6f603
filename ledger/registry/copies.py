"""Copies: where the weights of a model's versions went, and which of them know people who were erased since."""

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from ledger.errors import UnknownModel
from ledger.registry.lineage import count_resurrected
from ledger.states import HandOverState
from ledger.tables import ApiKey, HandOver, Model, ModelVersion, WeightFetch


@dataclass(frozen=True, slots=True, kw_only=True)
class HandedCopy:
    """A copy at a connected system. place: where, in the system's words. since: when it came into its state."""

    connector: str
    state: HandOverState
    place: str | None
    since: datetime
    delivered_at: datetime | None

    @property
    def is_gone(self) -> bool:
        """Whether the system has confirmed that it has deleted it."""
        return self.state == HandOverState.WITHDRAWN


@dataclass(frozen=True, slots=True, kw_only=True)
class FetchedCopy:
    """A copy of whoever fetched the weights with an API key: how often, and when for the last time."""

    key: str
    name: str
    times: int
    last: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class VersionCopies:
    """A version with its copies. knows: how many samples it knows that the model has forgotten since."""

    version_id: UUID
    number: int
    served: bool
    knows: int
    weights_path: str
    created_at: datetime
    purged_at: datetime | None
    handed: tuple[HandedCopy, ...]
    fetched: tuple[FetchedCopy, ...]


def list_copies(session: Session, *, tenant_id: UUID, model: str) -> list[VersionCopies]:
    """List the versions of a model with their copies, newest first. Raises UnknownModel."""
    of = session.scalar(select(Model).where(Model.tenant_id == tenant_id, Model.name == model))
    if of is None:
        raise UnknownModel(f"there is no model named {model!r}")
    versions = select(ModelVersion).where(ModelVersion.model_id == of.id).order_by(ModelVersion.number.desc())
    return [
        VersionCopies(
            version_id=version.id,
            number=version.number,
            served=version.id == of.served_version_id,
            knows=count_resurrected(session, version),
            weights_path=version.weights_path,
            created_at=version.created_at,
            purged_at=version.purged_at,
            handed=_handed(session, version),
            fetched=_fetched(session, version),
        )
        for version in session.scalars(versions).all()
    ]


def _handed(session: Session, version: ModelVersion) -> tuple[HandedCopy, ...]:
    """The systems that may have it: each that was called, whatever it answered."""
    called = select(HandOver).where(HandOver.version_id == version.id, HandOver.tried_at.is_not(None))
    return tuple(
        HandedCopy(
            connector=row.connector,
            state=row.state,
            place=row.place,
            since=row.since,
            delivered_at=row.delivered_at,
        )
        for row in session.scalars(called.order_by(HandOver.created_at))
    )


def _fetched(session: Session, version: ModelVersion) -> tuple[FetchedCopy, ...]:
    found = (
        select(ApiKey.prefix, ApiKey.name, func.count(), func.max(WeightFetch.at))
        .join(WeightFetch, WeightFetch.key_id == ApiKey.id)
        .where(WeightFetch.version_id == version.id)
        .group_by(ApiKey.prefix, ApiKey.name)
        .order_by(func.max(WeightFetch.at).desc())
    )
    return tuple(
        FetchedCopy(key=prefix, name=name, times=times, last=last)
        for prefix, name, times, last in session.execute(found)
    )
