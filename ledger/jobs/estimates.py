"""Estimates of a model's next job: how long it will take, and whether so many samples can be verified; previews of a request."""

import math
from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import Double, Subquery, cast, extract, func, select
from sqlalchemy.orm import Session

from ledger import resources
from ledger.db import allow_long_statements, now
from ledger.jobs.jobs import count_to_erase, samples_of_open_job
from ledger.registry.references import find_power
from ledger.resources import EstimateSource
from ledger.states import STAGES, AttemptOutcome, JobState, Phase
from ledger.tables import Attempt, Job, Model

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


def verdict_chance(session: Session, *, job_id: UUID) -> resources.VerdictChance | None:
    """Estimate the chance that a job is verified, from the number of its samples. None without reference predictions."""
    job = session.get_one(Job, job_id)
    power, needed = find_power(session, job.model_id)
    if not power:
        return None
    samples = job.sample_count
    if samples is None:
        allow_long_statements(session)
        samples = count_to_erase(session, job.model_id, samples_of_open_job(job_id))
    if not samples:
        return None
    return resources.VerdictChance(samples=samples, probability=interpolate(power, samples), samples_needed=needed)


def interpolate(power: Mapping[int, float], samples: int) -> float:
    """Interpolate linearly in the logarithm of the number of samples; beyond the ends the nearest value holds."""
    sizes = sorted(power)
    if samples <= sizes[0] or samples >= sizes[-1]:
        return power[sizes[0] if samples <= sizes[0] else sizes[-1]]
    above = next(size for size in sizes if size >= samples)
    below = sizes[sizes.index(above) - 1]
    share = math.log(samples / below) / math.log(above / below)
    return power[below] + share * (power[above] - power[below])


def last_jobs(model_id: UUID) -> Subquery:
    """Select the model's last twenty jobs that ran, and how long each `lasted`, from first start to the end of the last attempt.

    The time in which a version then waited for approval does not count.
    """
    ended = select(func.max(Attempt.finished_at)).where(Attempt.job_id == Job.id).scalar_subquery()
    return (
        select(Job.id, (ended - Job.started_at).label("lasted"))
        .where(Job.model_id == model_id, Job.state == JobState.COMPLETED, Job.started_at.is_not(None))
        .order_by(Job.created_at.desc())
        .limit(20)
        .subquery()
    )


def method_seconds(session: Session, model_id: UUID, kind: str) -> float | None:
    """Estimate how long a method takes on a model, its audit included: the median of its last twenty attempts that were audited.

    Before the first of them: for retraining what the model's training took, and nothing for another method.
    """
    total = func.jsonb_each(Attempt.timings).table_valued("key", "value")
    stages = select(func.sum(cast(total.c.value, Double))).select_from(total).where(total.c.key.in_(STAGES))
    spent = stages.scalar_subquery()
    last = (
        select(spent.label("seconds"))
        .select_from(Attempt)
        .join(Job, Job.id == Attempt.job_id)
        .where(Job.model_id == model_id, Attempt.method["kind"].astext == kind)
        .where(Attempt.outcome.in_((AttemptOutcome.PUBLISHED, AttemptOutcome.ESCALATED)), Attempt.reason.is_(None))
        .where(Attempt.timings.has_key(Phase.AUDIT_MEMBERSHIP.value))
        .order_by(Attempt.started_at.desc())
        .limit(20)
        .subquery()
    )
    median = session.scalar(select(func.percentile_cont(0.5).within_group(last.c.seconds)))
    if median is not None:
        return float(median)
    trained = _from_training(session.get_one(Model, model_id).details) if kind == "retrain" else None
    return None if trained is None else trained[0]


def plan(session: Session, *, job_id: UUID) -> tuple[resources.PlannedMethod, ...]:
    """List the methods that a job may try, in order: the time that each takes, and how often the last jobs came to it."""
    job = session.get_one(Job, job_id)
    jobs = last_jobs(job.model_id)
    total = session.scalar(select(func.count()).select_from(jobs)) or 0
    kind = Attempt.method["kind"].astext
    came = select(kind, func.count(Attempt.job_id.distinct())).where(Attempt.job_id.in_(select(jobs.c.id)))
    reached: dict[str, int] = dict(session.execute(came.group_by(kind)).all())
    return tuple(
        resources.PlannedMethod(
            kind=spec["kind"],
            seconds=method_seconds(session, job.model_id, spec["kind"]),
            share=reached.get(spec["kind"], 0) / total if total else None,
        )
        for spec in job.policy
    )


def _from_past_jobs(session: Session, model_id: UUID) -> tuple[float, float, float, EstimateSource] | None:
    seconds = extract("epoch", last_jobs(model_id).c.lasted)
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


def preview(session: Session, submit: Callable[[], resources.UnlearnRequest]) -> resources.Preview:
    """Submit a request behind a savepoint, read the result with estimates, and roll it back.

    submit: submits the request and returns it with its counts. Raises what `submit` raises.
    """
    with session.begin_nested() as savepoint:
        request = submit()
        targets = [_estimated(session, target, request) for target in request.targets]
        savepoint.rollback()
    joined = [target.job.id for target in targets if target.job is not None]
    existing = set(session.scalars(select(Job.id).where(Job.id.in_(joined))))
    assert request.samples is not None  # `submit` hides nothing
    assert request.dataset is not None
    return resources.Preview(
        dataset=request.dataset,
        datasets=request.datasets,
        every_dataset=request.every_dataset,
        samples=request.samples,
        subjects=request.subjects,
        samples_by_subject=request.samples_by_subject,
        unmatched_sample_ids=request.unmatched_sample_ids,
        unmatched_lines=request.unmatched_lines,
        targets=tuple(_without_new_job(target, existing) for target in targets),
        received_at=request.received_at,
        due_at=request.due_at,
    )


def _estimated(
    session: Session, target: resources.Target, request: resources.UnlearnRequest
) -> resources.PreviewTarget:
    job_id = target.job.id if target.job is not None else None
    found = estimate(session, job_id=job_id) if job_id is not None else None
    in_time = None if found is None else found.finish_at <= request.due_at
    methods = plan(session, job_id=job_id) if job_id is not None else ()
    chance = None if job_id is None else verdict_chance(session, job_id=job_id)
    return resources.PreviewTarget(
        **dict(target), estimate=found, meets_deadline=in_time, methods=methods, verdict_chance=chance
    )


def _without_new_job(target: resources.PreviewTarget, existing: set[UUID]) -> resources.PreviewTarget:
    """Remove the id of a job that only the savepoint knew."""
    if target.job is None or target.job.id in existing:
        return target
    return target.model_copy(update={"job": target.job.model_copy(update={"id": None})})
