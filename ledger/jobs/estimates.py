"""Estimates of how long a model's next job will take: from its past jobs, or from its training before the first."""

from datetime import timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import Subquery, extract, func, select
from sqlalchemy.orm import Session

from ledger import resources
from ledger.db import now
from ledger.resources import EstimateSource
from ledger.states import JobState
from ledger.tables import Job, Model

SPREAD = (0.1, 3.0)
"""The range of an estimate from training alone, in training times. It is a convention: the audit adds to the method's time, and a
policy may try several methods, of which retraining is the last."""


def estimate(session: Session, *, job_id: UUID) -> resources.Estimate | None:
    """Estimate a waiting job, behind the other open jobs of its model. None if nothing is known about its model."""
    job = session.get_one(Job, job_id)
    found = _from_past_jobs(session, job.model_id) or _from_training(session.get_one(Model, job.model_id).details)
    if found is None:
        return None
    seconds, low, high, source = found
    ahead = select(func.count()).where(
        Job.model_id == job.model_id, Job.id != job.id, Job.closed_at.is_not(None), Job.finished_at.is_(None)
    )
    jobs = 1 + (session.scalar(ahead) or 0)
    finish_at = max(job.closes_at, now(session)) + jobs * timedelta(seconds=high)
    return resources.Estimate(seconds=seconds, low_seconds=low, high_seconds=high, source=source, finish_at=finish_at)


def last_durations(model_id: UUID) -> Subquery:
    """Select how long the model's last twenty jobs `lasted`, from first start to end. Jobs that had nothing to run do not count."""
    return (
        select((Job.finished_at - Job.started_at).label("lasted"))
        .where(Job.model_id == model_id, Job.state == JobState.COMPLETED, Job.started_at.is_not(None))
        .order_by(Job.created_at.desc())
        .limit(20)
        .subquery()
    )


def _from_past_jobs(session: Session, model_id: UUID) -> tuple[float, float, float, EstimateSource] | None:
    seconds = extract("epoch", last_durations(model_id).c.lasted)
    median = func.percentile_cont(0.5).within_group(seconds)
    typical, low, high = session.execute(select(median, func.min(seconds), func.max(seconds))).one()
    if typical is None:
        return None
    return float(typical), float(low), float(high), EstimateSource.PAST_JOBS


def _from_training(details: dict[str, Any]) -> tuple[float, float, float, EstimateSource] | None:
    seconds = details.get("training_seconds")
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or seconds < 0:
        return None
    low, high = SPREAD
    return float(seconds), low * seconds, high * seconds, EstimateSource.TRAINING
