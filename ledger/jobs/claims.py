"""Claims: one worker's right to run one job, under a lease that it renews. The attempt number is the fencing token.

Every write of a worker takes a `ClaimedJob`. `lock_claimed_job` alone gives one, and only while this attempt is the current one
and its lease is valid. A worker that lost its lease and wakes up later cannot write anything.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Literal, NewType
from uuid import UUID

from sqlalchemy import ColumnElement, func, select, update
from sqlalchemy.orm import InstrumentedAttribute, Session

from ledger.db import now
from ledger.errors import StaleClaim
from ledger.events.timeline import record
from ledger.jobs.attempts import MAX_RETRY_WAIT, Ending, RetryRule, finish_attempt, record_timings, requeue
from ledger.jobs.transitions import advance_job, lock_requests
from ledger.registry.lineage import Reference, find_reference, known_samples, record_erasure
from ledger.registry.models import is_reserved
from ledger.registry.references import ReferenceFile, find_references
from ledger.registry.retention import CleanFiles, hold_files, release_files, unknowing_checkpoints
from ledger.requests.batching import close_job
from ledger.states import LEASED, AttemptOutcome, Escalation, JobState, Phase, Reason, RequestState
from ledger.tables import Attempt, Dataset, Job, Model, ModelVersion, Target, UnlearnRequest
from ledger.tables.samples import erased_samples, job_samples, request_subject_samples, request_subjects

CHUNK = 10_000
"""Rows that are in memory at a time while people are counted."""

CLOCK_ADJUSTMENT = timedelta(minutes=1)
"""How far the database's clock may go back in small adjustments, after which nothing has to be set right."""

ClaimedJob = NewType("ClaimedJob", Job)
"""A job that is locked in this transaction, under a claim that is valid."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JobSamples:
    """The digests of the samples that a job is about.

    forget: those to erase. erased: those that the model forgot earlier and must not see again. unknown: the job's other samples,
    which the served version was not trained on and which are erased with it.
    """

    forget: frozenset[bytes]
    erased: frozenset[bytes]
    unknown: frozenset[bytes]

    @property
    def left_out(self) -> frozenset[bytes]:
        """The samples beside `forget` that the model must not see."""
        return self.erased | self.unknown


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """What a worker needs to run a job. `attempt` is the fencing token of every write.

    `method` is the spec to run, number `policy_index` of `policy`; `origin` is `request` if a request named it, else `policy`.
    `escalate` says when the next one follows.
    `details` come from the model's registration. `next_version` is the number of the version that the job will make.
    `people` holds those whom its requests name and who have samples to forget: the digest of each, with the sealed commitment or
    None (`ledger.sample_ids.commit_to_subject`). `subjects` counts them; None if the requests name samples alone.
    `received_at` and `due_at` are the earliest of its requests. `retrained` is the retrained version to compare the result with,
    if there is one. `references` is the file of the model's reference predictions, if it has them.
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
    samples: JobSamples
    method: Mapping[str, Any]
    policy: tuple[Mapping[str, Any], ...]
    policy_index: int
    escalate: Escalation
    origin: Literal["request", "policy"]
    seed: int
    requests: int
    regulations: tuple[str, ...]
    received_at: datetime | None
    due_at: datetime | None
    retrained: Reference | None
    references: ReferenceFile | None = None
    subjects: int | None = None
    people: Mapping[bytes, bytes | None] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rewritten:
    """A file of reference predictions and the one without these samples' rows, or None if it cannot be read."""

    before: ReferenceFile
    after: ReferenceFile | None
    without: frozenset[bytes]


class RowsLeft(Exception):
    """A job can only be completed without a run once the references have no rows of its samples. file: has them."""

    def __init__(self, file: ReferenceFile, samples: frozenset[bytes]) -> None:
        super().__init__(f"the references may have rows of {len(samples)} samples that are erased without a run")
        self.file, self.samples = file, samples


@dataclass(frozen=True, slots=True)
class Fence:
    """What tells a claim from every other: the job, and its attempt."""

    job_id: UUID
    attempt: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Renewal:
    """The answer to a renewal of the lease."""

    cancel_requested: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Sweep:
    """What a sweep found: the jobs to wake, at most one for each model, most urgent first; and the jobs whose lease had expired."""

    wake: list[UUID]
    expired: list[UUID]


def claim(
    session: Session, job_id: UUID, *, worker: str, lease: timedelta, rewritten: Rewritten | None = None
) -> Claim | None:
    """Claim a job. None if it is unknown, not due, not queued, or if its model is busy or reserved (`reserve_model`); so a message
    that comes twice claims once.

    The first claim after the closing time closes the job. A job is completed here, without a run, if another job has erased all
    of its samples or the served version was never trained on them. A job that needs approval awaits it from here on. The model's
    row is locked first, so that only one of two jobs of a model is claimed.
    Raises RowsLeft if it could be completed here but for rows in the model's references: write the file anew, roll back, and give
    it as `rewritten`.
    """
    model_id = session.scalar(select(Job.model_id).where(Job.id == job_id))
    if model_id is None or is_reserved(session, model_id):
        return None
    model = session.get_one(Model, model_id, with_for_update={"key_share": True}, populate_existing=True)
    job = session.get_one(Job, job_id, with_for_update={"key_share": True}, populate_existing=True)
    busy = session.scalar(select(Job.id).where(Job.model_id == model_id, Job.holds_model))
    if job.state != JobState.QUEUED or busy is not None:
        return None
    if job.retry_at is not None and job.retry_at > now(session):
        return None
    if job.closed_at is None and job.closes_at > now(session):
        return None
    if job.closed_at is None:
        close_job(session, job)
    base = session.get_one(ModelVersion, model.served_version_id)
    samples = _read_samples(session, job_id, base)
    if not samples.forget:
        if samples.unknown:
            _take_off(session, job_id, model, base, samples.unknown, rewritten)
        record_erasure(session, job_id=job_id, version=base)
        record(session, "job.superseded", {}, job_id=job_id)
        advance_job(session, job_id, JobState.COMPLETED, reason=Reason.SUPERSEDED, phase=Phase.DONE, progress=1.0)
        return None
    if model.approve_jobs and job.approved_at is None:
        await_approval(session, job)
        return None
    return _take(session, job, model, base, samples, worker=worker, lease=lease)


def _read_samples(session: Session, job_id: UUID, base: ModelVersion) -> JobSamples:
    """Read the samples of a closed job, of which the served version `base` may have known some."""
    erased = frozenset(
        session.scalars(select(erased_samples.c.digest).where(erased_samples.c.model_id == base.model_id))
    )
    forget = frozenset(session.scalars(known_samples(session, base, among=job_id))) - erased
    asked = frozenset(session.scalars(select(job_samples.c.digest).where(job_samples.c.job_id == job_id)))
    return JobSamples(forget=forget, erased=erased, unknown=asked - forget - erased)


def _take_off(
    session: Session,
    job_id: UUID,
    model: Model,
    base: ModelVersion,
    samples: frozenset[bytes],
    rewritten: Rewritten | None,
) -> None:
    """Take what knows samples that the served version `base` does not off a model: rows of references, weights after slices.

    Earlier trainings may have used them. Raises RowsLeft.
    """
    file, references = find_references(session, model.id), None
    if file is not None:
        if rewritten is None or rewritten.before != file or not samples <= rewritten.without:
            raise RowsLeft(file, samples)
        references = (file, rewritten.after)
    checkpoints = unknowing_checkpoints(session, model, job_id=job_id)
    hold_files(base, model, CleanFiles(references=references, checkpoints=checkpoints))
    release_files(session, base)


def await_approval(session: Session, job: Job) -> None:
    """Let a closed job wait until its run is approved."""
    data = {"what": "run", "samples": job.sample_count}
    advance_job(session, job.id, JobState.AWAITING_APPROVAL, data=data)


def _take(
    session: Session,
    job: Job,
    model: Model,
    base: ModelVersion,
    samples: JobSamples,
    *,
    worker: str,
    lease: timedelta,
) -> Claim:
    """Begin the job's next attempt under a lease, and gather what its worker needs."""
    newest = session.scalars(select(func.max(ModelVersion.number)).where(ModelVersion.model_id == model.id)).one()
    moment = now(session)
    served = select(UnlearnRequest).join(Target, Target.request_id == UnlearnRequest.id)
    asked = session.scalars(served.where(Target.job_id == job.id, Target.state == RequestState.SCHEDULED)).all()
    by_person = [request.id for request in asked if request.subjects_given is not None]
    people = _find_people(session, by_person, samples.forget)
    session.add(Attempt(job_id=job.id, number=job.attempt, method=job.method, worker=worker))
    advance_job(
        session,
        job.id,
        JobState.RUNNING,
        data={"method": job.method.get("kind"), "base_version": base.number},
        worker=worker,
        lease_until=moment + lease,
        tries=job.tries + 1,
        retry_at=None,
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
        samples=samples,
        method=job.method,
        policy=tuple(job.policy),
        policy_index=job.policy_index,
        escalate=job.escalate,
        origin="request" if job.requested_method is not None and job.policy_index == 0 else "policy",
        seed=job.id.int % 2**31,
        requests=len(asked),
        regulations=tuple(sorted({request.regulation for request in asked})),
        received_at=min((request.received_at for request in asked), default=None),
        due_at=min((request.due_at for request in asked), default=None),
        retrained=find_reference(session, base, job_id=job.id),
        references=find_references(session, model.id),
        subjects=None if people is None else len(people),
        people=people or {},
    )


def _find_people(
    session: Session, request_ids: Sequence[UUID], forget: frozenset[bytes]
) -> dict[bytes, bytes | None] | None:
    """Find the people whom these requests name and whose samples are among those to forget; None without requests."""
    if not request_ids:
        return None
    pairs, named = request_subject_samples.c, request_subjects.c
    theirs = (
        select(pairs.subject, pairs.digest, named.commitment)
        .join(request_subjects, (named.request_id == pairs.request_id) & (named.subject == pairs.subject))
        .where(pairs.request_id.in_(request_ids))
    )
    found: dict[bytes, bytes | None] = {}
    # Compared here and not in SQL: the job's samples were written just now, so the planner would take them for one.
    with session.execute(theirs.execution_options(yield_per=CHUNK)) as rows:
        for subject, digest, commitment in rows:
            if digest in forget:
                found[subject] = found.get(subject) or commitment
    return found


def lock_claimed_job(session: Session, claim: Claim | Fence) -> ClaimedJob:
    """Lock the claim's job. Raises StaleClaim if its attempt is no longer the current one or its lease has expired."""
    mine = select(Job).where(
        Job.id == claim.job_id,
        Job.attempt == claim.attempt,
        Job.state.in_(LEASED),
        Job.lease_until > func.clock_timestamp(),
    )
    job = session.scalar(mine.with_for_update(key_share=True).execution_options(populate_existing=True))
    if job is None:
        raise StaleClaim(f"attempt {claim.attempt} at job {claim.job_id} has lost its lease or has ended")
    return ClaimedJob(job)


def renew_lease(session: Session, job: ClaimedJob, *, lease: timedelta) -> Renewal:
    """Extend the lease to `lease` from now, and tell whether the job is to be cancelled."""
    job.lease_until = now(session) + lease
    session.flush()
    return Renewal(cancel_requested=job.cancel_requested)


def record_progress(
    session: Session,
    job: ClaimedJob,
    *,
    phase: Phase,
    progress: float,
    step: int,
    total: int,
    eta_seconds: float | None,
    metrics: Mapping[str, Any],
    timings: Mapping[str, float],
) -> None:
    """Record how far the job is: `progress` 0 to 1 of the whole, `timings` in seconds by stage since the claim."""
    if phase != job.phase:
        record(session, "job.phase", {"phase": phase}, job_id=job.id)
    job.phase, job.progress, job.step, job.total = phase, progress, step, total
    job.eta_seconds, job.metrics = eta_seconds, dict(metrics)
    record_timings(session, job, timings)
    session.flush()


def enter_verifying(session: Session, job: ClaimedJob) -> None:
    """Move the job to `verifying`: the method has ended and the audit starts."""
    advance_job(session, job.id, JobState.VERIFYING)


def record_references_unused(session: Session, job: ClaimedJob, *, why: str) -> None:
    """Record on the timeline that the model's reference predictions cannot be used. why: a clause."""
    record(session, "job.references_unused", {"why": why}, job_id=job.id)


def record_processes(session: Session, job: ClaimedJob, *, processes: int, hosts: int) -> None:
    """Record on the timeline that several processes run the attempt, `processes` of them on this host."""
    record(session, "job.processes", {"processes": processes, "hosts": hosts}, job_id=job.id)


def release_job(session: Session, job: ClaimedJob) -> None:
    """Put the job back into the queue because the worker shuts down. It does not count as a try."""
    ending = Ending(AttemptOutcome.RELEASED)
    if job.cancel_requested:
        finish_attempt(session, job, ending, rule=None)
        return
    requeue(session, job, ending, tries=max(0, job.tries - 1))


def sweep(session: Session, *, rule: RetryRule, max_lease: timedelta | None = None) -> Sweep:
    """Take back the jobs whose lease has expired, and find those that can be claimed now. Simultaneous sweeps share the work.

    Such a job goes back to the queue with the next attempt number, at its first loss without a wait. After the last try of a method
    that `rule` allows it fails. max_lease: the longest that a lease can last; None for no limit. A lease or a wait that ends later
    was given before the database's clock stepped back, and is cut. A job that was opened at a time to come is of before that too,
    and closes now.
    """
    if max_lease is not None:
        _cut(session, Job.lease_until, Job.state.in_(LEASED), longest=max_lease)
    _cut(session, Job.retry_at, Job.state == JobState.QUEUED, longest=MAX_RETRY_WAIT)
    opened = Job.closed_at.is_(None) & (Job.created_at > func.clock_timestamp() + CLOCK_ADJUSTMENT)
    _cut(session, Job.closes_at, (Job.state == JobState.QUEUED) & opened, longest=timedelta(0))
    expired = select(Job).where(Job.state.in_(LEASED), Job.lease_until <= func.clock_timestamp())
    # By model, as everyone locks jobs and announces their wake-ups.
    expired = expired.order_by(Job.model_id, Job.id)
    jobs = list(
        session.scalars(
            expired.with_for_update(key_share=True, skip_locked=True).execution_options(populate_existing=True)
        )
    )
    # All of their requests are locked at once, in order. If each job locked its own, a sweep and a publication could deadlock.
    waiting = select(Target.request_id).where(Target.job_id.in_([job.id for job in jobs]))
    lock_requests(session, session.scalars(waiting).all())
    for job in jobs:
        detail = f"the worker stopped renewing its lease in phase {job.phase}"
        finish_attempt(session, job, Ending(AttemptOutcome.EXPIRED, Reason.WORKER_LOST, detail), rule=rule)
    return Sweep(wake=_claimable(session), expired=[job.id for job in jobs])


def _cut(session: Session, ends: InstrumentedAttribute[Any], of: ColumnElement[bool], *, longest: timedelta) -> None:
    """Let what ends later than `longest` from now end then, in the jobs chosen by `of` that nobody has locked."""
    latest = func.clock_timestamp() + longest
    mine = select(Job.id).where(of, ends > latest).with_for_update(key_share=True, skip_locked=True).cte("mine")
    session.execute(
        update(Job).where(Job.id == mine.c.id).values({ends: latest}).execution_options(synchronize_session=False)
    )


def _claimable(session: Session) -> list[UUID]:
    busy = select(Job.model_id).where(Job.holds_model)
    due = (
        select(Job.model_id, Job.id)
        .where(Job.state == JobState.QUEUED, Job.model_id.not_in(busy))
        .where(Job.closed_at.is_not(None) | (Job.closes_at <= func.clock_timestamp()))
        .where(Job.retry_at.is_(None) | (Job.retry_at <= func.clock_timestamp()))
        .order_by(Job.closes_at, Job.id)
    )
    first: dict[UUID, UUID] = {}
    for model_id, job_id in session.execute(due):
        first.setdefault(model_id, job_id)
    return list(first.values())
