"""What each version of a model has forgotten."""

from dataclasses import dataclass
from uuid import UUID

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from ledger.models import VersionView, list_versions
from ledger.states import Verdict
from ledger.tables import Report
from ledger.tables.samples import erased_samples


@dataclass(frozen=True, slots=True, kw_only=True)
class Forgotten:
    """A version, how many samples it was made to forget, and what its audit found."""

    version: VersionView
    samples: int
    verdict: Verdict | None


def list_forgotten(session: Session, *, tenant_id: UUID, model: str) -> list[Forgotten]:
    """All versions of a model, newest first. Raises UnknownModel."""
    versions = list_versions(session, tenant_id=tenant_id, model=model)
    ids = [version.id for version in versions]
    counted = select(erased_samples.c.version_id, func.count()).where(erased_samples.c.version_id.in_(ids))
    found = select(Report.version_id, Report.verdict).where(Report.version_id.in_(ids))
    first: dict[UUID, int] = dict(session.execute(counted.group_by(erased_samples.c.version_id)).all())
    verdicts = dict(session.execute(found).all())
    return [
        Forgotten(version=version, samples=first.get(version.id, 0), verdict=verdicts.get(version.id))
        for version in versions
    ]
