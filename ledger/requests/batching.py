"""Batching: requests for one model share its one open job, until the job closes and its samples are fixed."""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import func, select, text
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from ledger.db import now
from ledger.events.outbox import announce_wakeup
from ledger.events.timeline import record
from ledger.jobs.estimates import last_durations
from ledger.states import ClosingReason, JobState, RequestState
from ledger.tables import Job, Model, Target
from ledger.tables.samples import job_samples, request_samples, training_samples

DEFAULT_DURATION = timedelta(days=1)
"""The assumed duration of a model's first job."""

SAFETY_FACTOR = 3
"""A job starts at least this many times its longest known duration before the earliest deadline, so that it can be tried again."""


def join_job(
    session: Session,
    *,
    model: Model,
    method: Mapping[str, Any] | None,
    samples: int,
    due_at: datetime,
    expedite: bool,
    window: timedelta,
) -> Job:
    """Lock the model's open job, or open one, and let it close early enough for this request. Targets can then join it.

    A job runs one method. An open job for another method is closed first.
    """
    closes_at, why = closing_time(
        moment=now(session),
        window=window,
        due_at=due_at,
        duration=longest_duration(session, model.id),
        expedite=expedite,
    )
    job = _open_job(session, model=model, method=method, closes_at=closes_at, why=why)
    if closes_at < job.closes_at:
        job.closes_at, job.closing_reason = closes_at, why
        record(session, "job.cut_off", {"cut_off": closes_at, "why": why}, job_id=job.id)
        announce_wakeup(session, job.id, at=closes_at)
    record(session, "job.joined", {"samples": samples}, job_id=job.id)
    session.flush()
    return job


def _open_job(
    session: Session, *, model: Model, method: Mapping[str, Any] | None, closes_at: datetime, why: ClosingReason
) -> Job:
    is_open = (Job.model_id == model.id) & (Job.state == JobState.QUEUED) & Job.closed_at.is_(None)
    locked = select(Job).where(is_open).with_for_update(key_share=True).execution_options(populate_existing=True)
    wanted = dict(method) if method is not None else None
    policy = job_policy(model.policy, wanted)
    while True:
        job = session.scalar(locked)
        if job is not None and job.requested_method == wanted:
            return job
        if job is not None:
            job.closes_at, job.closing_reason = min(job.closes_at, now(session)), ClosingReason.METHOD
            close_job(session, job)
            announce_wakeup(session, job.id)
        opened = (
            insert(Job)
            .values(
                tenant_id=model.tenant_id,
                model_id=model.id,
                closes_at=closes_at,
                closing_reason=why,
                requested_method=wanted,
                policy=policy,
                method=policy[0],
            )
            .on_conflict_do_nothing(
                index_elements=[Job.model_id], index_where=text("state = 'queued' AND frozen_at IS NULL")
            )
            .returning(Job.id)
        )
        job_id = session.scalar(opened)  # None: another transaction opened it first
        if job_id is not None:
            record(session, "job.opened", {"cut_off": closes_at, "why": why}, job_id=job_id)
            announce_wakeup(session, job_id, at=closes_at)


def close_job(session: Session, job: Job) -> None:
    """Close a locked job to further requests, and fix its samples: those of its requests that the model was trained on."""
    wanted = (
        select(Target.job_id, request_samples.c.digest)
        .join(request_samples, request_samples.c.request_id == Target.request_id)
        .join(
            training_samples,
            (training_samples.c.model_id == Target.model_id) & (training_samples.c.digest == request_samples.c.digest),
        )
        .where(Target.job_id == job.id, Target.state == RequestState.SCHEDULED)
        .distinct()
    )
    session.execute(insert(job_samples).from_select(["job_id", "digest"], wanted))
    job.sample_count = session.scalar(select(func.count()).where(job_samples.c.job_id == job.id))
    job.closed_at = now(session)
    record(session, "job.frozen", {"samples": job.sample_count}, job_id=job.id)
    session.flush()


def closing_time(
    *, moment: datetime, window: timedelta, due_at: datetime, duration: timedelta, expedite: bool
) -> tuple[datetime, ClosingReason]:
    """Give the time when a job must close on account of one request, and the reason. It is never before `moment`.

    It is the earlier of the end of the batching window and the latest start that still meets the deadline; `moment` if the request
    is expedited.
    """
    if expedite:
        return moment, ClosingReason.EXPEDITE
    latest_start = due_at - SAFETY_FACTOR * duration
    if latest_start < moment + window:
        return max(moment, latest_start), ClosingReason.DEADLINE
    return moment + window, ClosingReason.WINDOW


def longest_duration(session: Session, model_id: UUID) -> timedelta:
    """Give the longest time that one of the model's last twenty jobs took; DEFAULT_DURATION before the first."""
    longest: timedelta | None = session.scalar(select(func.max(last_durations(model_id).c.lasted)))
    return longest or DEFAULT_DURATION


def job_policy(policy: Sequence[Mapping[str, Any]], method: Mapping[str, Any] | None) -> list[dict[str, Any]]:
    """List the methods that a job tries: the model's policy, or the requested method and those after it in the policy."""
    if method is None:
        return [dict(spec) for spec in policy]
    kinds = [spec.get("kind") for spec in policy]
    after = kinds.index(method.get("kind")) + 1 if method.get("kind") in kinds else 0
    return [dict(method), *(dict(spec) for spec in policy[after:])]
