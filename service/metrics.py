"""Prometheus metrics: every metric that the service exports is defined here. Most are read from the ledger at each scrape."""

import logging
import operator
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from typing import TypeVar

from anyio import Lock
from fastapi import FastAPI
from fastapi.concurrency import run_in_threadpool
from prometheus_client import CollectorRegistry, disable_created_metrics, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString
from prometheus_fastapi_instrumentator import Instrumentator
from prometheus_fastapi_instrumentator.metrics import Info, default
from sqlalchemy.orm import Session

from ledger import metrics
from ledger.db import DATABASE_AWAY
from ledger.events.hand_overs import MISSED
from ledger.events.webhooks import TALLY
from ledger.jobs import workers
from ledger.states import TERMINAL, JobState, RequestState, TryOutcome, Verdict
from ledger.transparency.log import signing_state
from report.evidence import Audit
from service.http.middleware import MONITORING, known_method
from service.http.sessions import Database
from unlearning.specs import PRODUCTION

logger = logging.getLogger(__name__)

MAX_AGE = 2.0
"""Seconds for which an exposition is given again: however many scrape, the ledger is read once in that time."""

MAX_OWNERS = 1000
"""Tenants and models with series of their own, in the order of their names. What is counted of the others is under `_other`."""

UNSUMMABLE = {
    "expunge_audit_membership_auc_ratio",
    "expunge_audit_relearn_delay_ratio",
    "expunge_audit_utility_delta_ratio",
    "expunge_job_progress_ratio",
    "expunge_served_version",
    "expunge_training_seconds",
}
"""Gauges of a model whose sum over models means nothing."""

V = TypeVar("V")

Rows = Iterable[tuple[tuple[str, ...], float]]
"""Label values, and the value."""

DISTRIBUTIONS: tuple[tuple[str, str, tuple[str, ...], Callable[[Session], metrics.Distribution]], ...] = (
    (
        "expunge_unlearning_seconds",
        "Seconds that the method itself ran.",
        ("tenant", "model", "method"),
        partial(metrics.unlearning_seconds, kinds=PRODUCTION),
    ),
    (
        "expunge_stage_duration_seconds",
        "Seconds of each stage of a job.",
        ("stage", "method"),
        partial(metrics.stage_seconds, kinds=PRODUCTION),
    ),
    ("expunge_request_completion_seconds", "Seconds from receipt to completion.", (), metrics.completion_seconds),
    ("expunge_queue_wait_seconds", "Seconds from a job's opening to its start.", (), metrics.queue_wait_seconds),
    ("expunge_job_requests", "Requests that a completed job served.", (), metrics.job_requests),
)
"""Name, description and labels of each histogram, and what reads it from the ledger."""


def make_registry() -> CollectorRegistry:
    """Make a registry for one application, so that two in one process do not collide."""
    disable_created_metrics()  # type: ignore[no-untyped-call]  # untyped in the library; `_created` doubles the series of counters
    return CollectorRegistry(auto_describe=True)


def instrument(app: FastAPI, registry: CollectorRegistry) -> None:
    """Count and time every call by its route's template, method and status. A method that no route knows counts as `other`."""
    measure = default(registry=registry)
    assert measure is not None  # it is None where its metrics are in the registry already

    def measure_known(info: Info) -> None:
        info.method = known_method(info.request.scope)
        measure(info)

    uncounted = [f"^{path}$" for path in MONITORING]
    counted = Instrumentator(registry=registry, excluded_handlers=uncounted, should_group_status_codes=False)
    counted.add(measure_known).instrument(app)


@dataclass(slots=True)
class Scrapes:
    """The last exposition, and until when (monotonic seconds) it is given again. One scrape reads at a time."""

    lock: Lock = field(default_factory=Lock)
    written: bytes = b""
    fresh_until: float = 0.0


async def scrape(app: FastAPI) -> bytes:
    """Write all metrics in Prometheus' text format, or give again what was written within the last MAX_AGE seconds."""
    scrapes: Scrapes = app.state.scrapes
    async with scrapes.lock:
        if time.monotonic() >= scrapes.fresh_until:
            scrapes.written = await run_in_threadpool(exposition, app)
            scrapes.fresh_until = time.monotonic() + MAX_AGE
        return scrapes.written


def exposition(app: FastAPI) -> bytes:
    """Write all metrics in Prometheus' text format.

    With PROMETHEUS_MULTIPROC_DIR, what the processes count themselves is summed over all of them. The ledger's metrics are read at
    each scrape, so every process returns the same, and none are lost with a process.
    """
    registry: CollectorRegistry = app.state.metrics
    if "PROMETHEUS_MULTIPROC_DIR" in os.environ:
        registry = CollectorRegistry()
        MultiProcessCollector(registry)  # type: ignore[no-untyped-call]  # untyped in the library
    return generate_latest(registry) + generate_latest(_FromLedger(app.state.database, app.version))


@dataclass(frozen=True)
class _FromLedger(Collector):
    """Reads the ledger at each scrape. While the database is away, it exports only that it is."""

    database: Database
    version: str

    def collect(self) -> Iterable[Metric]:
        yield InfoMetricFamily("expunge_build", "The version of the service.", value={"version": self.version})
        found: list[Metric] = []
        try:
            with self.database.sessions() as session:
                found = list(families(session))
        except DATABASE_AWAY as error:
            logger.warning("the ledger cannot be read for the metrics: %s", type(error).__name__)
        yield GaugeMetricFamily("expunge_exporter_up", "Whether the ledger could be read.", value=float(bool(found)))
        yield from found


def families(session: Session) -> Iterator[Metric]:
    """Read all metrics of the ledger, with every known label set from the start."""
    yield from _states(session)
    yield from _requests(session)
    yield from _versions(session)
    yield from _audits(session)
    yield from _running(session)
    yield from _waiting(session)
    for name, text, labels, read in DISTRIBUTIONS:
        yield _histogram(name, text, labels, read(session))
    text = "Seconds in which methods waited for samples to be read."
    waited = metrics.data_wait_seconds(session).items()
    yield _counter("expunge_data_wait_seconds", text, ("tenant", "model", "method"), waited)
    expired = metrics.leases_expired(session)
    yield _counter("expunge_lease_expired", "Attempts whose worker stopped renewing its lease.", (), [((), expired)])
    refused = metrics.stale_writes_rejected(session)
    text = "Writes that were refused to workers without their lease."
    yield _counter("expunge_stale_writes_rejected", text, (), [((), refused)])
    counts = metrics.read_tallies(session, TALLY)
    tries = [((outcome,), counts.get(outcome, 0)) for outcome in TryOutcome]
    yield _counter("expunge_webhook_deliveries", "Tries to deliver a webhook message.", ("outcome",), tries)


def _states(session: Session) -> Iterator[Metric]:
    """Requests and jobs by state, and what is about to be late."""
    requests, jobs = metrics.requests_by_state(session), metrics.jobs_by_state(session)
    yield _gauge(
        "expunge_requests", "Requests by state.", ("state",), [((s,), requests.get(s, 0)) for s in RequestState]
    )
    yield _gauge("expunge_jobs", "Jobs by state.", ("state",), [((s,), jobs.get(s, 0)) for s in JobState])
    awaiting = [((what,), count) for what, count in metrics.awaiting_approval(session).items()]
    yield _gauge("expunge_jobs_awaiting_approval", "Jobs that wait for approval.", ("what",), awaiting)
    unserved = metrics.unserved_requests(session)
    due, text = _known(unserved.earliest), "When the first unserved request is due."
    yield _gauge("expunge_earliest_deadline_timestamp_seconds", text, (), due)
    yield _gauge("expunge_requests_overdue", "Unserved requests past their due date.", (), [((), unserved.overdue)])
    text = "Requests that are neither served nor withdrawn nor dismissed, by when they are due."
    yield _gauge("expunge_requests_unserved", text, ("tenant", "state", "due"), unserved.counts.items())
    failed, by_model = metrics.failed_jobs(session), ("tenant", "model")
    times = [((tenant, model), count) for tenant, model, count, _ in failed]
    yield _counter("expunge_job_failures", "How often a job has failed.", by_model, times)
    left = [((tenant, model), count) for tenant, model, _, count in failed]
    yield _gauge("expunge_jobs_unserved", "Jobs that ended and left a request unserved.", by_model, left)


def _requests(session: Session) -> Iterator[Metric]:
    """How many requests were received, how often they have ended, and how often late."""
    yield _counter("expunge_requests_received", "Requests received.", (), [((), metrics.requests_received(session))])
    ended = metrics.requests_finished(session)
    outcomes = [state for state in RequestState if state in TERMINAL]
    finished = [((outcome,), ended.get(outcome, (0, 0))[0]) for outcome in outcomes]
    yield _counter("expunge_requests_finished", "Ends of requests.", ("outcome",), finished)
    late = [((outcome,), ended.get(outcome, (0, 0))[1]) for outcome in outcomes]
    yield _counter("expunge_requests_finished_late", "Ends of requests after their due date.", ("outcome",), late)


def _versions(session: Session) -> Iterator[Metric]:
    """The served version of each model, and the stored versions that know erased people."""
    found, by_model = metrics.versions(session), ("tenant", "model")
    served = [((tenant, model), number) for tenant, model, number, _ in found]
    yield _gauge("expunge_served_version", "Number of the version that the model serves.", by_model, served)
    knowing = [((tenant, model), count) for tenant, model, _, count in found]
    text = "Stored versions that know people who were erased since, until their weights are purged."
    yield _gauge("expunge_versions_knowing_erased", text, by_model, knowing)


def _audits(session: Session) -> Iterator[Metric]:
    """Samples erased, audits by verdict, and what the audit of each served version measured."""
    erased = metrics.samples_erased(session)
    text = "Samples that a model has forgotten."
    yield _counter("expunge_samples_erased", text, ("tenant", "model"), erased.items())
    counts = {(*of_model, verdict.value): 0 for of_model in erased for verdict in Verdict} | metrics.verdicts(session)
    yield _counter("expunge_audit_verdicts", "Audits by verdict.", ("tenant", "model", "verdict"), counts.items())
    audits = metrics.audits(session)
    for name, text, read in (
        ("expunge_audit_membership_auc_ratio", "Served version: AUC of the attack farthest from 0.5.", _membership_auc),
        ("expunge_audit_relearn_delay_ratio", "Served version: relearn delay over the control's.", _relearn_delay),
        (
            "expunge_audit_utility_delta_ratio",
            "Served version: merit (accuracy for a classifier) on test data after less before, in hundreds of points.",
            _utility_delta,
        ),
    ):
        measured = [((tenant, model), value) for tenant, model, audit in audits if (value := read(audit)) is not None]
        yield _gauge(name, text, ("tenant", "model"), measured)


def _running(session: Session) -> Iterator[Metric]:
    """Whether there is a worker, and the progress of running jobs."""
    text = "When a worker was last seen: it renews a lease, or records that it is there."
    yield _gauge("expunge_worker_seen_timestamp_seconds", text, (), _known(workers.worker_last_seen(session)))
    running, text = metrics.progress(session).items(), "Progress of each running job."
    yield _gauge("expunge_job_progress_ratio", text, ("tenant", "model", "stage"), running)
    free, size = workers.storage_room(session) or (None, None)
    yield _gauge("expunge_storage_free_bytes", "Free bytes in the workers' storage.", (), _known(free))
    yield _gauge("expunge_storage_size_bytes", "Size of the workers' storage.", (), _known(size))
    trained = metrics.training_seconds(session).items()
    yield _gauge("expunge_training_seconds", "Seconds that the model's training took.", ("tenant", "model"), trained)


def _waiting(session: Session) -> Iterator[Metric]:
    """Messages that should have been sent by now."""
    for name, thing, backlog in (
        ("outbox", "wake-ups that are due", metrics.outbox_backlog(session)),
        ("webhook", "webhook messages that no endpoint has taken", metrics.webhook_backlog(session)),
    ):
        yield _gauge(f"expunge_{name}_waiting", f"Number of {thing}.", (), [((), backlog.waiting)])
        text = f"Time of the oldest of the {thing}."
        yield _gauge(f"expunge_{name}_oldest_timestamp_seconds", text, (), _known(backlog.oldest))
    handed = metrics.hand_over_backlog(session)
    text = "Versions that a connected system does not have yet, or has not deleted yet."
    waiting = [((connector,), backlog.waiting) for connector, backlog in handed.items()]
    yield _gauge("expunge_hand_overs_waiting", text, ("connector",), waiting)
    text = "Since when the oldest of them waits."
    oldest = [((name,), backlog.oldest.timestamp()) for name, backlog in handed.items() if backlog.oldest is not None]
    yield _gauge("expunge_hand_overs_oldest_timestamp_seconds", text, ("connector",), oldest)
    counts = dict.fromkeys(handed, 0) | metrics.read_tallies(session, MISSED)
    text = "Times that a connected system was found without the version that it had confirmed."
    yield _counter("expunge_hand_overs_missed", text, ("connector",), [((one,), n) for one, n in counts.items()])
    log = signing_state(session)
    text = "When the newest checkpoint of the log was signed."
    yield _gauge("expunge_log_checkpoint_timestamp_seconds", text, (), _known(log.signed_at))
    text = "Time of the oldest entry of the log that no checkpoint covers."
    yield _gauge("expunge_log_unsigned_oldest_timestamp_seconds", text, (), _known(log.waiting_since))


def _membership_auc(audit: Audit) -> float:
    found = [attack.unlearned.auc.value for attack in audit.membership.attacks]
    return max(found, key=lambda auc: abs(auc - 0.5))


def _relearn_delay(audit: Audit) -> float | None:
    return audit.relearn.ratio_to_control


def _utility_delta(audit: Audit) -> float:
    return (audit.measures.unlearned.ta.value - audit.measures.original.ta.value) / 100


def _known(value: float | datetime | None) -> Rows:
    """Give the row of a metric without labels, and none while its value is not known. A time becomes seconds since 1970."""
    if value is None:
        return []
    return [((), value.timestamp() if isinstance(value, datetime) else value)]


def _gauge(name: str, text: str, labels: Sequence[str], rows: Rows) -> Metric:
    family = GaugeMetricFamily(name, text, labels=labels)
    for key, value in _bounded(labels, dict(rows), add=None if name in UNSUMMABLE else operator.add).items():
        family.add_metric(key, value)
    return family


def _counter(name: str, text: str, labels: Sequence[str], rows: Rows) -> Metric:
    family = CounterMetricFamily(name, text, labels=labels)
    for key, value in _bounded(labels, dict(rows), add=operator.add).items():
        family.add_metric(key, value)
    return family


def _histogram(name: str, text: str, labels: Sequence[str], distribution: metrics.Distribution) -> Metric:
    family = HistogramMetricFamily(name, text, labels=labels)
    bounds = [*map(floatToGoString, distribution.bounds), "+Inf"]
    for key, (counts, total) in sorted(_bounded(labels, distribution.by_labels, add=_add_buckets).items()):
        family.add_metric(key, list(zip(bounds, map(float, counts), strict=True)), total)
    return family


def _add_buckets(one: tuple[list[int], float], other: tuple[list[int], float]) -> tuple[list[int], float]:
    return [mine + its for mine, its in zip(one[0], other[0], strict=True)], one[1] + other[1]


def _bounded(
    labels: Sequence[str], rows: Mapping[tuple[str, ...], V], *, add: Callable[[V, V], V] | None
) -> Mapping[tuple[str, ...], V]:
    """Give the rows of the first MAX_OWNERS tenants and models as they are, and add up the others' under `_other`.

    add: how two values are added; None leaves the others out, because their sum would mean nothing.
    """
    places = [place for place, label in enumerate(labels) if label in ("tenant", "model")]
    owners = sorted({tuple(key[place] for place in places) for key in rows})
    if len(owners) <= MAX_OWNERS:
        return rows
    own, found = set(owners[:MAX_OWNERS]), dict[tuple[str, ...], V]()
    for key, value in rows.items():
        if tuple(key[place] for place in places) in own:
            found[key] = value
        elif add is not None:
            other = tuple("_other" if place in places else part for place, part in enumerate(key))
            found[other] = add(found[other], value) if other in found else value
    return found
