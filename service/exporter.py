"""The ledger's numbers as Prometheus metrics: the one place where rows become metrics."""

from collections.abc import Iterator

from prometheus_client.core import HistogramMetricFamily, Metric
from prometheus_client.utils import floatToGoString
from sqlalchemy.orm import Session

from service import tallies


def families(session: Session) -> Iterator[Metric]:
    """All metrics that come from rows, with every known label set from the start."""
    yield from _states(session)
    yield from _requests(session)
    yield from _durations(session)
    yield from _audits(session)
    yield _counter(
        "expunge_lease_lapsed",
        "Attempts whose worker stopped renewing its lease.",
        (),
        [((), tallies.leases_lapsed(session))],
    )


def _durations(session: Session) -> Iterator[Metric]:
    for name, text, labels, read in (
        (
            "expunge_unlearning_seconds",
            "Seconds that the unlearning method ran.",
            ("model", "method"),
            tallies.unlearning_seconds,
        ),
        (
            "expunge_stage_duration_seconds",
            "Seconds of each stage of a job.",
            ("stage", "method"),
            tallies.stage_seconds,
        ),
        ("expunge_request_completion_seconds", "Seconds from receipt to completion.", (), tallies.completion_seconds),
        ("expunge_queue_wait_seconds", "Seconds from a job's opening to its start.", (), tallies.queue_wait_seconds),
        ("expunge_job_requests", "Requests that a completed job served.", (), tallies.job_requests),
    ):
        distribution = read(session)
        family = HistogramMetricFamily(name, text, labels=labels)
        bounds = [*map(floatToGoString, distribution.bounds), "+Inf"]
        for key, (counts, total) in sorted(distribution.by_labels.items()):
            family.add_metric(key, list(zip(bounds, counts, strict=True)), total)
        yield family
