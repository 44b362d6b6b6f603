"""Metrics from the ledger: durations and counts over the rows of all tenants, computed by the database.

Worker children and API processes come and go, and rows stay. So nothing is lost with a process or counted twice by several.
"""

import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any

from sqlalchemy import Double, Select, Text, case, cast, extract, func, literal, select, union_all
from sqlalchemy.dialects.postgresql import ARRAY, insert
from sqlalchemy.orm import Session, aliased

from ledger.states import (
    DATA_WAIT,
    LEASED,
    OWED,
    STAGES,
    AttemptOutcome,
    DeliveryState,
    JobState,
    Phase,
    Reason,
    RequestState,
    Verdict,
)
from ledger.tables import (
    Attempt,
    HandOver,
    Job,
    Model,
    ModelVersion,
    OutboxEntry,
    Report,
    Tally,
    Target,
    Tenant,
    UnlearnRequest,
    WebhookDelivery,
)
from ledger.tables.samples import erased_samples
from report.document import InvalidReport, read_audit
from report.evidence import Audit

logger = logging.getLogger(__name__)

DAY = 86400.0

_JUDGED = (AttemptOutcome.PUBLISHED, AttemptOutcome.ESCALATED)
_KIND = Attempt.method["kind"].astext


@dataclass(frozen=True, slots=True)
class Distribution:
    """A histogram: for each label set the cumulative count at each bound, the last for all values, and the sum of the values."""

    bounds: Sequence[float]
    by_labels: Mapping[tuple[str, ...], tuple[list[int], float]]


def _audited(timing: str) -> Select[Any]:
    """Select tenant, model, method and a timing, as `value`, of the attempts that were audited."""
    return (
        select(
            Tenant.name.label("tenant"),
            Model.name.label("model"),
            _KIND,
            Attempt.timings[timing].as_float().label("value"),
        )
        .select_from(Attempt)
        .join(Job, Job.id == Attempt.job_id)
        .join(Model, Model.id == Job.model_id)
        .join(Tenant, Tenant.id == Model.tenant_id)
        .where(Attempt.outcome.in_(_JUDGED), Attempt.reason.is_(None))
    )


def data_wait_seconds(session: Session) -> dict[tuple[str, str, str], float]:
    """Sum up, by tenant, model and method, the part of `unlearning_seconds` in which methods waited for samples to be read.

    Where a method has run and did not wait it is 0.
    """
    rows = _audited(DATA_WAIT).subquery()
    tenant, model, kind, value = rows.c
    sums = select(tenant, model, kind, func.coalesce(func.sum(value), 0.0)).group_by(tenant, model, kind)
    return {(names[0], names[1], names[2]): float(seconds) for *names, seconds in session.execute(sums)}


def unlearning_seconds(session: Session, *, kinds: Collection[str]) -> Distribution:
    """Measure the seconds that a method itself ran, by tenant, model and method, over the attempts that were audited.

    kinds: the methods that appear even without an attempt.
    """
    rows = _audited(Phase.UNLEARN)
    models = session.execute(select(Tenant.name, Model.name).join(Model, Model.tenant_id == Tenant.id)).all()
    known = [(tenant, model, kind) for tenant, model in models for kind in kinds]
    return _distribution(session, rows, (1, 2, 5, 10, 30, 60, 120, 300, 600, 1800, 3600, 7200, 14400, 28800), known)


def stage_seconds(session: Session, *, kinds: Collection[str]) -> Distribution:
    """Measure the seconds of each stage, by stage and method, over the attempts that were audited. kinds: as above."""
    timing = func.jsonb_each(Attempt.timings).table_valued("key", "value", joins_implicitly=True)
    rows = select(timing.c.key, _KIND, cast(timing.c.value, Double).label("value")).where(
        Attempt.outcome.in_(_JUDGED), Attempt.reason.is_(None), timing.c.key.in_(STAGES)
    )
    known = [(stage, kind) for stage in STAGES for kind in kinds]
    return _distribution(session, rows, (1, 2, 5, 10, 30, 60, 300, 900, 1800, 3600, 7200, 14400, 28800), known)


def completion_seconds(session: Session) -> Distribution:
    """Measure the seconds from receipt to completion of requests. The legal limits are among the bounds."""
    rows = select(_seconds(UnlearnRequest.received_at, UnlearnRequest.finished_at)).where(
        UnlearnRequest.state == RequestState.COMPLETED
    )
    bounds = (60, 300, 900, 3600, 6 * 3600, DAY, 7 * DAY, 14 * DAY, 28 * DAY, 30 * DAY, 31 * DAY, 60 * DAY, 92 * DAY)
    return _distribution(session, rows, bounds, [()])


def queue_wait_seconds(session: Session) -> Distribution:
    """Measure the seconds from the opening of a job to its first claim."""
    rows = select(_seconds(Job.created_at, Job.started_at)).where(Job.started_at.is_not(None))
    return _distribution(session, rows, (1, 2, 5, 10, 30, 60, 300, 900, 3600, 6 * 3600, DAY, 7 * DAY), [()])


def job_requests(session: Session) -> Distribution:
    """Count the requests that each completed job served."""
    served = func.count(Target.id).label("value")
    jobs = select(served).select_from(Target).join(Job, Job.id == Target.job_id)
    rows = jobs.where(Job.state == JobState.COMPLETED).group_by(Job.id)
    return _distribution(session, rows, (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000), [()])


def _seconds(start: Any, end: Any) -> Any:
    return cast(extract("epoch", end - start), Double).label("value")


def _distribution(
    session: Session, rows: Select[Any], bounds: Sequence[float], known: Sequence[tuple[str, ...]]
) -> Distribution:
    """Bucket the `value` column of the rows by their other columns. The label sets in `known` appear even without a row."""
    inner = rows.subquery()
    labels = [column for column in inner.c if column.name != "value"]
    # A bucket holds values up to its bound, and width_bucket values from its threshold on, so both are negated.
    thresholds = literal([-float(bound) for bound in reversed(bounds)], ARRAY(Double))
    at_least = func.width_bucket(-inner.c.value, thresholds)
    counted = select(*labels, at_least, func.count(), func.sum(inner.c.value)).where(inner.c.value.is_not(None))
    counts = {key: [0] * (len(bounds) + 1) for key in known}
    sums = dict.fromkeys(known, 0.0)
    for *label_values, above, count, total in session.execute(counted.group_by(*labels, at_least)):
        key = tuple(map(str, label_values))
        buckets = counts.setdefault(key, [0] * (len(bounds) + 1))
        for index in range(len(bounds) - above, len(buckets)):
            buckets[index] += count
        sums[key] = sums.get(key, 0.0) + float(total)
    return Distribution(bounds, {key: (buckets, sums[key]) for key, buckets in counts.items()})


def requests_by_state(session: Session) -> dict[str, int]:
    """Count requests by state, for the states that occur."""
    counted = select(UnlearnRequest.state, func.count()).group_by(UnlearnRequest.state)
    return {state.value: count for state, count in session.execute(counted)}


def jobs_by_state(session: Session) -> dict[str, int]:
    """Count jobs by state, for the states that occur."""
    counted = select(Job.state, func.count()).group_by(Job.state)
    return {state.value: count for state, count in session.execute(counted)}


class Due(StrEnum):
    """When an unserved request is due. Each request counts once."""

    OVERDUE = "overdue"
    WITHIN_72H = "within_72h"
    WITHIN_7D = "within_7d"  # in more than 72 hours
    LATER = "later"


@dataclass(frozen=True, slots=True, kw_only=True)
class Unserved:
    """What the law still asks for: the earliest deadline, None if there is none, and the counts of requests.

    The keys are the tenant, `open` or `failed` (it has ended without being served), and when it is due.
    """

    earliest: datetime | None
    counts: Mapping[tuple[str, str, Due], int]

    @property
    def overdue(self) -> int:
        """How many are overdue, of all tenants."""
        return sum(count for (_, _, due), count in self.counts.items() if due is Due.OVERDUE)


def unserved_requests(session: Session) -> Unserved:
    """Count the unserved requests of every tenant by when they are due (`UnlearnRequest.is_unserved`)."""
    left = UnlearnRequest.due_at - func.clock_timestamp()
    due = case(
        (left <= timedelta(0), Due.OVERDUE),
        (left <= timedelta(hours=72), Due.WITHIN_72H),
        (left <= timedelta(days=7), Due.WITHIN_7D),
        else_=Due.LATER,
    ).label("due")
    state = case((UnlearnRequest.finished_at.is_(None), "open"), else_="failed").label("state")
    each = select(UnlearnRequest.tenant_id, state, due, UnlearnRequest.due_at).where(UnlearnRequest.is_unserved())
    one = each.subquery()
    found = (
        select(Tenant.name, one.c.state, one.c.due, func.count(), func.min(one.c.due_at))
        .join(one, one.c.tenant_id == Tenant.id)
        .group_by(Tenant.name, one.c.state, one.c.due)
    )
    counts = {
        (tenant, of_state, when): 0
        for tenant in session.scalars(select(Tenant.name))
        for of_state in ("open", "failed")
        for when in Due
    }
    earliest: datetime | None = None
    for tenant, of_state, when, count, first in session.execute(found):
        counts[tenant, of_state, Due(when)] = count
        earliest = first if earliest is None else min(earliest, first)
    return Unserved(earliest=earliest, counts=counts)


def failed_jobs(session: Session) -> list[tuple[str, str, int, int]]:
    """Give, for every model by tenant and name, how often its jobs have failed, and how many jobs have left a request unserved."""
    unserved = (
        select(Target.model_id, func.count(Target.job_id.distinct()).label("jobs"))
        .join(UnlearnRequest, UnlearnRequest.id == Target.request_id)
        .where(UnlearnRequest.is_unserved())
        .where((Target.state == RequestState.FAILED) | (Target.reason == Reason.APPROVAL_REFUSED))
        .group_by(Target.model_id)
        .subquery()
    )
    times = func.greatest(Job.failures, case((Job.state == JobState.FAILED, 1), else_=0))
    failures = select(Job.model_id, func.sum(times).label("times")).group_by(Job.model_id).subquery()
    found = (
        select(Tenant.name, Model.name, func.coalesce(failures.c.times, 0), func.coalesce(unserved.c.jobs, 0))
        .join(Model, Model.tenant_id == Tenant.id)
        .outerjoin(failures, failures.c.model_id == Model.id)
        .outerjoin(unserved, unserved.c.model_id == Model.id)
    )
    return [(tenant, model, times, jobs) for tenant, model, times, jobs in session.execute(found)]


def versions(session: Session) -> list[tuple[str, str, int, int]]:
    """Give, for every model by tenant and name, its served version's number, and how many stored versions know erased people."""
    served = aliased(ModelVersion)
    knowing = func.count(ModelVersion.id).filter(ModelVersion.knows_erased, ModelVersion.purged_at.is_(None))
    found = (
        select(Tenant.name, Model.name, served.number, knowing)
        .join(Model, Model.tenant_id == Tenant.id)
        .join(served, served.id == Model.served_version_id)
        .join(ModelVersion, ModelVersion.model_id == Model.id)
        .group_by(Tenant.name, Model.name, served.number)
    )
    return [(tenant, model, number, count) for tenant, model, number, count in session.execute(found)]


def training_seconds(session: Session) -> dict[tuple[str, str], float]:
    """Give the seconds of each model's training, if they were registered, by tenant and model."""
    seconds = Model.details["training_seconds"].as_float()
    found = select(Tenant.name, Model.name, seconds).join(Tenant, Tenant.id == Model.tenant_id)
    found = found.where(func.jsonb_typeof(Model.details["training_seconds"]) == "number")
    return {(tenant, model): float(value) for tenant, model, value in session.execute(found)}


def awaiting_approval(session: Session) -> dict[str, int]:
    """Count jobs that await approval: of their `run`, or of their `version`."""
    counted = select(func.count().filter(~Job.holds_model), func.count().filter(Job.holds_model))
    run, version = session.execute(counted.where(Job.state == JobState.AWAITING_APPROVAL)).one()
    return {"run": run, "version": version}


def progress(session: Session) -> dict[tuple[str, str, str], float]:
    """Give the progress, 0 to 1, of each job that a worker holds, by tenant, model (which has at most one) and phase."""
    running = (
        select(Tenant.name, Model.name, Job.phase, Job.progress)
        .join(Job, Job.model_id == Model.id)
        .join(Tenant, Tenant.id == Model.tenant_id)
        .where(Job.state.in_(LEASED))
    )
    return {(tenant, model, phase.value): share for tenant, model, phase, share in session.execute(running)}


def audits(session: Session) -> list[tuple[str, str, Audit]]:
    """The `audit` of the report on each model's served version, by tenant and model. One that cannot be read is left out."""
    found = (
        select(Tenant.name, Model.name, Report.body["audit"])
        .select_from(Model)
        .join(Tenant, Tenant.id == Model.tenant_id)
        .join(Report, Report.version_id == Model.served_version_id)
    )
    audits = []
    for tenant, model, audit in session.execute(found):
        try:
            audits.append((tenant, model, read_audit(audit)))
        except InvalidReport as error:
            logger.warning("the report on the served version of %s cannot be read: %s", model, error)
    return audits


def verdicts(session: Session) -> dict[tuple[str, str, str], int]:
    """Count audits by tenant, model and verdict: of published results, and of those not published because of the verdict."""
    published = (
        select(Job.model_id, cast(Report.verdict, Text).label("verdict"))
        .select_from(Report)
        .join(Job, Job.id == Report.job_id)
    )
    rejected = case(
        (Attempt.reason == Reason.AUDIT_FAILED, literal(Verdict.FAILED.value)), else_=Attempt.finding["verdict"].astext
    )
    unpublished = (
        select(Job.model_id, rejected)
        .select_from(Attempt)
        .join(Job, Job.id == Attempt.job_id)
        .where(Attempt.outcome != AttemptOutcome.PUBLISHED, rejected.is_not(None))
    )
    every = union_all(published, unpublished).subquery()
    counted = (
        select(Tenant.name, Model.name, every.c.verdict, func.count())
        .join(Model, Model.id == every.c.model_id)
        .join(Tenant, Tenant.id == Model.tenant_id)
        .group_by(Tenant.name, Model.name, every.c.verdict)
    )
    return {(tenant, model, verdict): count for tenant, model, verdict, count in session.execute(counted)}


def samples_erased(session: Session) -> dict[tuple[str, str], int]:
    """Count the samples that each model has forgotten, by tenant and model."""
    counted = (
        select(Tenant.name, Model.name, func.count(erased_samples.c.digest))
        .select_from(Model)
        .join(Tenant, Tenant.id == Model.tenant_id)
        .outerjoin(erased_samples, erased_samples.c.model_id == Model.id)
        .group_by(Tenant.name, Model.name)
    )
    return {(tenant, model): count for tenant, model, count in session.execute(counted)}


def requests_finished(session: Session) -> dict[str, tuple[int, int]]:
    """Count how often requests have ended, by outcome, and how often after their deadline.

    A request that failed and was retried or withdrawn has ended more than once, so that no count decreases. One that is failed
    counts at least once: a process of an earlier release moves it there without counting.
    """
    is_late, is_failed = UnlearnRequest.finished_at > UnlearnRequest.due_at, UnlearnRequest.state == RequestState.FAILED
    late = func.count().filter(is_late)
    ended = select(UnlearnRequest.state, func.count(), late).where(
        UnlearnRequest.finished_at.is_not(None), UnlearnRequest.state != RequestState.FAILED
    )
    found = session.execute(ended.group_by(UnlearnRequest.state))
    counts = {state.value: (count, after) for state, count, after in found}
    failures = func.greatest(UnlearnRequest.failures, case((is_failed, 1), else_=0))
    late_failures = func.greatest(UnlearnRequest.late_failures, case((is_failed & is_late, 1), else_=0))
    failed, failed_late = session.execute(select(func.sum(failures), func.sum(late_failures))).one()
    return {**counts, RequestState.FAILED.value: (failed or 0, failed_late or 0)}


def requests_received(session: Session) -> int:
    """Count all requests."""
    return session.scalar(select(func.count()).select_from(UnlearnRequest)) or 0


def leases_expired(session: Session) -> int:
    """Count the attempts whose worker stopped renewing the lease."""
    return (
        session.scalar(select(func.count()).select_from(Attempt).where(Attempt.outcome == AttemptOutcome.EXPIRED)) or 0
    )


def stale_writes_rejected(session: Session) -> int:
    """Count the writes that were refused because the worker's lease had expired."""
    return session.scalar(select(func.sum(Attempt.refused_writes))) or 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Backlog:
    """How many entries wait, and since when the oldest of them; None if there is none."""

    waiting: int
    oldest: datetime | None


def outbox_backlog(session: Session) -> Backlog:
    """Measure the backlog of wake-ups whose job is due. The job's closing time counts: an entry's own time moves with each try."""
    due = case(
        (Job.closed_at.is_not(None), OutboxEntry.created_at), else_=func.greatest(OutboxEntry.created_at, Job.closes_at)
    )
    counted = select(func.count(), func.min(due)).join(Job, Job.id == OutboxEntry.job_id)
    waiting, oldest = session.execute(counted.where(due <= func.clock_timestamp())).one()
    return Backlog(waiting=waiting, oldest=oldest)


def webhook_backlog(session: Session) -> Backlog:
    """Measure the backlog of webhook messages that are not delivered, including those that wait for another try."""
    pending = select(func.count(), func.min(WebhookDelivery.created_at))
    waiting, oldest = session.execute(pending.where(WebhookDelivery.state == DeliveryState.PENDING)).one()
    return Backlog(waiting=waiting, oldest=oldest)


def hand_over_backlog(session: Session) -> dict[str, Backlog]:
    """Measure, for each connected system, the backlog of versions that it does not have yet, or has not deleted yet."""
    owed = HandOver.state.in_(OWED)
    counted = select(HandOver.connector, func.count().filter(owed), func.min(HandOver.since).filter(owed))
    found = counted.where(HandOver.next_try_at.is_not(None)).group_by(HandOver.connector)
    return {name: Backlog(waiting=waiting, oldest=oldest) for name, waiting, oldest in session.execute(found)}


def increment_tally(session: Session, name: str, label: str) -> None:
    """Add one to a tally."""
    first = insert(Tally).values(name=name, label=label, value=1)
    session.execute(first.on_conflict_do_update(index_elements=["name", "label"], set_={"value": Tally.value + 1}))


def read_tallies(session: Session, name: str) -> dict[str, int]:
    """Give the values of a tally by label, for the labels that were ever counted."""
    return dict(session.execute(select(Tally.label, Tally.value).where(Tally.name == name)).all())
