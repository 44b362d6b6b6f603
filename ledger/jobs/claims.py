"""Claims: the right of one worker to run one job, under a lease that it renews, fenced by the number of the attempt.

Every write of a worker goes through `held`, which finds the job only while this attempt is the current one and its lease is
alive. So a worker that was thought dead, and wakes up, can not write anything.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from ledger.db import now
from ledger.errors import StaleClaim
from ledger.events.timeline import record
from ledger.jobs.attempts import finish_attempt, record_timings, requeue
from ledger.jobs.transitions import advance_job, lock_requests
from ledger.registry.lineage import Reference, find_reference, known_samples, record_erasure
from ledger.requests.batching import close_job
from ledger.requests.idempotency import delete_expired_keys
from ledger.states import LEASED, AttemptOutcome, JobState, Phase, Reason, RequestState
from ledger.tables import Attempt, Dataset, Job, Model, ModelVersion, Target, UnlearnRequest
from ledger.tables.requests import erased_samples

MAX_TRIES = 3
"""How often one method of a job is tried, unless the caller says otherwise."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """What a worker needs to run a job. `attempt` is the fencing token that goes with every write.

    `forget` is what this job has to erase, `erased` what the model has forgotten before and must never be shown again, both by
    digest. `method` is the spec to run, number `policy_index` of `policy`; `origin` says whether a request asked for it.
    `details` are those that the model was registered with. `next_version` is the number that the result will have.
    `received_at` and `due_at` are the earliest of its requests. `reference` is the version to hold the result against, where one
    was trained on just what remains.
    """

    job_id: UUID
    attempt: int
    tenant_id: UUID
    model_id: UUID
    model: str
    dataset: str
    workload: str
    details: Mapping[str, Any]
    base_version: int
    base_version_id: UUID
    next_version: int
    weights_path: str
    weights_sha256: str
    forget: frozenset[bytes]
    erased: frozenset[bytes]
    method: Mapping[str, Any]
    policy: tuple[Mapping[str, Any], ...]
    policy_index: int
    origin: str
    seed: int
    requests: int
    regulations: tuple[str, ...]
    received_at: datetime | None
    due_at: datetime | None
    reference: Reference | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Renewal:
    """The answer to a heartbeat."""

    cancel_requested: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Sweep:
    """What a sweep found: jobs to wake, at most one a model, most urgent first; and jobs whose lease had lapsed."""

    wake: list[UUID]
    expired: list[UUID]


def claim(session: Session, job_id: UUID, *, worker: str, lease: timedelta) -> Claim | None:
    """Take a job, or None: unknown, not due, finished, its model busy, or held by another. A message twice is a claim once.

    The first claim after the cut-off freezes the manifest. A job whose samples another job has erased meanwhile, or that the
    version served now was never trained on, is completed here, without a run. The model's row is locked first, so that of two
    jobs of one model one is claimed. Where the model's jobs need approval, a frozen job waits for it.
    """
    model_id = session.scalar(select(Job.model_id).where(Job.id == job_id))
    if model_id is None:
        return None
    model = session.get_one(Model, model_id, with_for_update={"key_share": True}, populate_existing=True)
    job = session.get_one(Job, job_id, with_for_update={"key_share": True}, populate_existing=True)
    busy = session.scalar(select(Job.id).where(Job.model_id == model_id, Job.holds_model))
    if job.state != JobState.QUEUED or busy is not None:
        return None
    if job.closed_at is None and job.closes_at > now(session):
        return None
    if job.closed_at is None:
        close_job(session, job)
    erased = frozenset(session.scalars(select(erased_samples.c.digest).where(erased_samples.c.model_id == model_id)))
    base = session.get_one(ModelVersion, model.served_version_id)
    forget = frozenset(session.scalars(known_samples(session, base, among=job_id))) - erased
    if not forget:
        record_erasure(session, job_id=job_id, version=base)
        record(session, "job.superseded", {}, job_id=job_id)
        advance_job(session, job_id, JobState.COMPLETED, reason=Reason.SUPERSEDED, phase=Phase.DONE, progress=1.0)
        return None
    if model.approve_jobs and job.approved_at is None:
        await_approval(session, job)
        return None
    return _take(session, job, model, base, worker=worker, lease=lease, forget=forget, erased=erased)


def await_approval(session: Session, job: Job) -> None:
    """Have a closed job wait until somebody lets it run; its requests' deadlines do not wait."""
    data = {"what": "run", "samples": job.sample_count}
    advance_job(session, job.id, JobState.AWAITING_APPROVAL, data=data)


def _take(
    session: Session,
    job: Job,
    model: Model,
    base: ModelVersion,
    *,
    worker: str,
    lease: timedelta,
    forget: frozenset[bytes],
    erased: frozenset[bytes],
) -> Claim:
    newest = session.scalars(select(func.max(ModelVersion.number)).where(ModelVersion.model_id == model.id)).one()
    moment = now(session)
    served = (
        select(UnlearnRequest.regulation, UnlearnRequest.received_at, UnlearnRequest.due_at)
        .join(Target, Target.request_id == UnlearnRequest.id)
        .where(Target.job_id == job.id, Target.state == RequestState.SCHEDULED)
    )
    asked = session.execute(served).all()
    session.add(Attempt(job_id=job.id, number=job.attempt, method=job.method, worker=worker))
    advance_job(
        session,
        job.id,
        JobState.RUNNING,
        data={"method": job.method.get("kind"), "base_version": base.number},
        worker=worker,
        lease_until=moment + lease,
        tries=job.tries + 1,
        base_version_id=base.id,
        started_at=job.started_at or moment,
        phase=Phase.LOAD,
        metrics={},
        timings={},
    )
    return Claim(
        job_id=job.id,
        attempt=job.attempt,
        tenant_id=job.tenant_id,
        model_id=model.id,
        model=model.name,
        dataset=session.get_one(Dataset, model.dataset_id).name,
        workload=model.workload,
        details=model.details,
        base_version=base.number,
        base_version_id=base.id,
        next_version=newest + 1,
        weights_path=base.weights_path,
        weights_sha256=base.weights_sha256,
        forget=forget,
        erased=erased,
        method=job.method,
        policy=tuple(job.policy),
        policy_index=job.policy_index,
        origin="request" if job.requested_method is not None and job.policy_index == 0 else "policy",
        seed=job.id.int % 2**31,
        requests=len(asked),
        regulations=tuple(sorted({request.regulation for request in asked})),
        received_at=min((request.received_at for request in asked), default=None),
        due_at=min((request.due_at for request in asked), default=None),
        reference=find_reference(session, base, job_id=job.id),
    )


def lock_claimed_job(session: Session, claim: Claim) -> Job:
    """The claim's job, locked, if the claim still stands: its attempt is the current one and its lease alive. Raises StaleClaim."""
    mine = select(Job).where(
        Job.id == claim.job_id,
        Job.attempt == claim.attempt,
        Job.state.in_(LEASED),
        Job.lease_until > func.clock_timestamp(),
    )
    job = session.scalar(mine.with_for_update(key_share=True).execution_options(populate_existing=True))
    if job is None:
        raise StaleClaim(f"attempt {claim.attempt} at job {claim.job_id} has lost its lease or has ended")
    return job


def renew_lease(session: Session, claim: Claim, *, lease: timedelta) -> Renewal:
    """Keep the claim for another `lease` from now, and hear whether the job is to be cancelled. Raises StaleClaim."""
    job = lock_claimed_job(session, claim)
    job.lease_until = now(session) + lease
    session.flush()
    return Renewal(cancel_requested=job.cancel_requested)


def record_progress(
    session: Session,
    claim: Claim,
    *,
    phase: Phase,
    progress: float,
    step: int,
    total: int,
    eta_seconds: float | None,
    metrics: Mapping[str, Any],
    timings: Mapping[str, float],
) -> None:
    """Say how far the job is: `progress` 0 to 1 of the whole, `timings` in seconds by stage since the claim. Raises StaleClaim."""
    job = lock_claimed_job(session, claim)
    if phase != job.phase:
        record(session, "job.phase", {"phase": phase}, job_id=job.id)
    job.phase, job.progress, job.step, job.total = phase, progress, step, total
    job.eta_seconds, job.metrics = eta_seconds, dict(metrics)
    record_timings(session, job, timings)
    session.flush()


def enter_verifying(session: Session, claim: Claim) -> None:
    """The method has ended and the audit begins. Raises StaleClaim."""
    lock_claimed_job(session, claim)
    advance_job(session, claim.job_id, JobState.VERIFYING)


def release_job(session: Session, claim: Claim) -> None:
    """Give the job back to the queue, because the worker is to stop; it does not count as a try. Raises StaleClaim."""
    job = lock_claimed_job(session, claim)
    if job.cancel_requested:
        finish_attempt(session, job, outcome=AttemptOutcome.RELEASED, reason=None, detail=None, max_tries=None)
        return
    requeue(session, job, outcome=AttemptOutcome.RELEASED, reason=None, detail=None, tries=job.tries - 1)


def sweep(session: Session, *, max_attempts: int = MAX_TRIES) -> Sweep:
    """Take back the jobs whose lease has lapsed, and find those that could be claimed now. Two sweeps at once share the work.

    A lapsed job goes back to the queue with the next attempt number, at most `max_attempts` tries of a method, then it has failed.
    """
    lapsed = select(Job).where(Job.state.in_(LEASED), Job.lease_until <= func.clock_timestamp()).order_by(Job.id)
    jobs = list(
        session.scalars(
            lapsed.with_for_update(key_share=True, skip_locked=True).execution_options(populate_existing=True)
        )
    )
    # All of their requests are locked at once, in order: job by job, a sweep and a publication could wait for each other.
    waiting = select(Target.request_id).where(Target.job_id.in_([job.id for job in jobs]))
    lock_requests(session, session.scalars(waiting).all())
    for job in jobs:
        detail = f"the worker stopped renewing its lease in phase {job.phase}"
        finish_attempt(
            session,
            job,
            outcome=AttemptOutcome.EXPIRED,
            reason=Reason.WORKER_LOST,
            detail=detail,
            max_tries=max_attempts,
        )
    delete_expired_keys(session)
    return Sweep(wake=_claimable(session), expired=[job.id for job in jobs])


def _claimable(session: Session) -> list[UUID]:
    busy = select(Job.model_id).where(Job.holds_model)
    due = (
        select(Job.model_id, Job.id)
        .where(Job.state == JobState.QUEUED, Job.model_id.not_in(busy))
        .where(Job.closed_at.is_not(None) | (Job.closes_at <= func.clock_timestamp()))
        .order_by(Job.closes_at, Job.id)
    )
    first: dict[UUID, UUID] = {}
    for model_id, job_id in session.execute(due):
        first.setdefault(model_id, job_id)
    return list(first.values())
