"""Batching: requests for one model share its one open job, until the job closes and its samples are fixed."""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import cast, func, select, text
from sqlalchemy.dialects.postgresql import JSONB, insert
from sqlalchemy.orm import Session

from ledger.db import allow_long_statements, now
from ledger.events.timeline import record
from ledger.jobs.estimates import last_jobs
from ledger.jobs.jobs import count_to_erase, samples_of_closed_job, samples_of_open_job
from ledger.states import ClosingReason, JobState, RequestState
from ledger.tables import Job, Model, Target, UnlearnRequest
from ledger.tables.samples import job_samples
from telemetry import tracing

DEFAULT_DURATION = timedelta(days=1)
"""The assumed duration of a model's first job."""

SAFETY_FACTOR = 3
"""A job starts at least this many times its longest known duration before the earliest deadline, so that it can be tried again."""


DEADLINE_RESERVE, RESERVED_SHARE = timedelta(days=4), 0.2
"""A job that waits for more samples closes so long before that, and at most this share of the time that is left: past jobs do not
show what a policy's further methods take, and operators are warned three days before a deadline."""


Wakeups = list[tuple[UUID, datetime | None]]
"""Wake-ups to announce: of which job, and not before when."""


def join_job(
    session: Session,
    request: UnlearnRequest,
    model: Model,
    *,
    samples: int,
    window: timedelta,
    wakeups: Wakeups,
) -> Job:
    """Lock the model's open job, or open one, and let it close early enough for this request. Targets can then join it.

    samples: how many of the request's the model has to forget.
    A job runs one method. An open job for another method is closed first. A job escalates as the request does that asks for most.
    With fewer samples than the model's `batch_until_samples` it stays open until some days before the deadline.

    wakeups: gets those that follow. The caller announces them once it has locked the jobs of all its models: of two transactions
    that announce before they have locked, each could wait for the other.
    """
    moment, wanted = now(session), model.batch_until_samples
    duration = session.scalar(select(func.max(last_jobs(model.id).c.lasted))) or DEFAULT_DURATION

    def close_with(count: int) -> tuple[datetime, ClosingReason]:
        enough = wanted is None or count >= wanted
        until = window if enough else None
        return closing_time(
            moment=moment, window=until, due_at=request.due_at, duration=duration, expedite=request.expedite
        )

    closes_at, why = close_with(samples)
    job = _open_job(session, request, model, closes_at=closes_at, why=why, wakeups=wakeups)
    if wanted is not None:
        # Counted under the job's lock: of two requests at once, the second sees the samples of the first.
        closes_at, why = close_with(samples + _waiting_samples(session, job))
    job.escalate = job.escalate.or_more(request.escalate or model.escalate)
    if closes_at < job.closes_at:
        job.closes_at, job.closing_reason = closes_at, why
        record(session, "job.cut_off", {"cut_off": closes_at, "why": why}, job_id=job.id)
        wakeups.append((job.id, closes_at))
    record(session, "job.joined", {"samples": samples}, job_id=job.id)
    session.flush()
    return job


def _waiting_samples(session: Session, job: Job) -> int:
    """Count the samples that wait in an open job, those of two requests twice."""
    waiting = select(func.sum(Target.accepted)).where(Target.job_id == job.id, Target.state == RequestState.SCHEDULED)
    return session.scalar(waiting) or 0


def _open_job(
    session: Session,
    request: UnlearnRequest,
    model: Model,
    *,
    closes_at: datetime,
    why: ClosingReason,
    wakeups: Wakeups,
) -> Job:
    """Lock the model's open job for the request's method, or open one. wakeups: gets those that follow from that."""
    is_open = (Job.model_id == model.id) & (Job.state == JobState.QUEUED) & Job.closed_at.is_(None)
    wanted = request.method
    # Compared by the database, for which 1.5e308 stays the number it was. It comes back as an integer, which is another one.
    is_wanted = Job.requested_method.is_(None) if wanted is None else Job.requested_method == cast(wanted, JSONB)
    locked = select(Job, is_wanted).where(is_open).with_for_update(key_share=True, of=Job)
    locked = locked.execution_options(populate_existing=True)
    policy = job_policy(model.policy, wanted)
    while True:
        job, fits = session.execute(locked).one_or_none() or (None, False)
        if job is not None and fits:
            return job
        if job is not None:
            job.closes_at, job.closing_reason = min(job.closes_at, now(session)), ClosingReason.METHOD
            close_job(session, job)
            wakeups.append((job.id, None))
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
                escalate=request.escalate or model.escalate,
                traceparent=tracing.current_trace(),
            )
            .on_conflict_do_nothing(
                index_elements=[Job.model_id], index_where=text("state = 'queued' AND frozen_at IS NULL")
            )
            .returning(Job.id)
        )
        job_id = session.scalar(opened)  # None: another transaction opened it first
        if job_id is not None:
            record(session, "job.opened", {"cut_off": closes_at, "why": why}, job_id=job_id)
            wakeups.append((job_id, closes_at))


def close_job(session: Session, job: Job) -> None:
    """Close a locked job to further requests, and fix its samples: those of its requests that the model was trained on."""
    allow_long_statements(session)
    session.execute(insert(job_samples).from_select(["job_id", "digest"], samples_of_open_job(job.id)))
    job.sample_count = count_to_erase(session, job.model_id, samples_of_closed_job(job.id))
    job.closed_at = now(session)
    record(session, "job.frozen", {"samples": job.sample_count}, job_id=job.id)
    session.flush()


def closing_time(
    *, moment: datetime, window: timedelta | None, due_at: datetime, duration: timedelta, expedite: bool
) -> tuple[datetime, ClosingReason]:
    """Give the time when a job must close on account of one request, and the reason. It is never before `moment`.

    It is the earlier of the end of the batching window and the latest start that still meets the deadline; `moment` if the request
    is expedited. window: None to wait for more samples, with a reserve before the latest start.
    """
    if expedite:
        return moment, ClosingReason.EXPEDITE
    latest_start = due_at - SAFETY_FACTOR * duration
    if window is None:
        latest_start -= min(DEADLINE_RESERVE, RESERVED_SHARE * (due_at - moment))
    if window is None or latest_start < moment + window:
        return max(moment, latest_start), ClosingReason.DEADLINE
    return moment + window, ClosingReason.WINDOW


def job_policy(policy: Sequence[Mapping[str, Any]], method: Mapping[str, Any] | None) -> list[dict[str, Any]]:
    """List the methods that a job tries: the model's policy, or the requested method and those after it in the policy."""
    if method is None:
        return [dict(spec) for spec in policy]
    kinds = [spec.get("kind") for spec in policy]
    after = kinds.index(method.get("kind")) + 1 if method.get("kind") in kinds else 0
    return [dict(method), *(dict(spec) for spec in policy[after:])]
