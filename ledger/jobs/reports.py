"""Reports of published jobs: read and list them."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from ledger.errors import UnknownReport
from ledger.states import Verdict
from ledger.tables import Model, ModelVersion, Report
from ledger.tables.samples import erased_samples


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredReport:
    """A report. `body` is the JSON that was published, `sha256` its digest, `statement` the signed envelope about it."""

    id: UUID
    sha256: str
    body: Mapping[str, Any]
    statement: Mapping[str, Any] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportSummary:
    """A report in a list: which model and version it is about, what it found, and of how many forgotten samples."""

    id: UUID
    job_id: UUID
    model: str
    version: int
    verdict: Verdict
    samples: int
    signed: bool
    created_at: datetime


def list_reports(session: Session, *, tenant_id: UUID, limit: int) -> list[ReportSummary]:
    """List a tenant's newest reports."""
    forgotten = select(func.count()).where(erased_samples.c.version_id == Report.version_id).scalar_subquery()
    chosen = (
        select(
            Report.id,
            Report.job_id,
            Model.name.label("model"),
            ModelVersion.number.label("version"),
            Report.verdict,
            forgotten.label("samples"),
            Report.statement.is_not(None).label("signed"),
            Report.created_at,
        )
        .join(ModelVersion, ModelVersion.id == Report.version_id)
        .join(Model, Model.id == ModelVersion.model_id)
        .where(Report.tenant_id == tenant_id)
        .order_by(Report.created_at.desc(), Report.id)
        .limit(limit)
    )
    return [ReportSummary(**row._mapping) for row in session.execute(chosen)]


def get_report(session: Session, *, tenant_id: UUID, report_id: UUID) -> StoredReport:
    """Read one report. Raises UnknownReport."""
    report = session.scalar(select(Report).where(Report.id == report_id, Report.tenant_id == tenant_id))
    if report is None:
        raise UnknownReport(f"there is no report {report_id}")
    return StoredReport(id=report.id, sha256=report.sha256, body=report.body, statement=report.statement)
