"""Metrics: what the service's processes count themselves, and what the exporter reads from the ledger."""

import logging
import os
from collections.abc import Iterable
from dataclasses import dataclass

from fastapi import FastAPI
from prometheus_client import CollectorRegistry, disable_created_metrics, generate_latest
from prometheus_client.core import GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector
from prometheus_fastapi_instrumentator import Instrumentator
from sqlalchemy.exc import OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from service import exporter
from service.session import Database

logger = logging.getLogger(__name__)

UNCOUNTED = ["^/metrics$", "^/livez$", "^/readyz$"]


def make_registry() -> CollectorRegistry:
    """A registry of one application's own, so that two in one process do not collide."""
    disable_created_metrics()  # type: ignore[no-untyped-call]  # the library leaves it so; they double the series of counters
    return CollectorRegistry(auto_describe=True)


def instrument(app: FastAPI, registry: CollectorRegistry) -> None:
    """Count and time every call by its route's template, method and status."""
    Instrumentator(registry=registry, excluded_handlers=UNCOUNTED, should_group_status_codes=False).instrument(app)


def exposition(app: FastAPI) -> bytes:
    """All metrics in Prometheus' text format.

    What the processes count themselves is summed over them where the operator runs several and sets PROMETHEUS_MULTIPROC_DIR. What
    the ledger knows is read from it at each scrape: the same whichever process answers, and nothing is lost with one.
    """
    registry: CollectorRegistry = app.state.metrics
    if "PROMETHEUS_MULTIPROC_DIR" in os.environ:
        registry = CollectorRegistry()
        MultiProcessCollector(registry)  # type: ignore[no-untyped-call]  # the library leaves it so
    return generate_latest(registry) + generate_latest(_FromLedger(app.state.database, app.version))


@dataclass(frozen=True)
class _FromLedger(Collector):
    """Reads the ledger when it is collected; where the database is away, says that and nothing else."""

    database: Database
    version: str

    def collect(self) -> Iterable[Metric]:
        yield InfoMetricFamily("expunge_build", "The version of the service.", value={"version": self.version})
        found: list[Metric] = []
        try:
            with self.database.sessions() as session:
                found = list(exporter.families(session))
        except (OperationalError, PoolTimeout) as error:
            logger.warning("the ledger cannot be read for the metrics: %s", type(error).__name__)
        yield GaugeMetricFamily("expunge_exporter_up", "Whether the ledger could be read.", value=float(bool(found)))
        yield from found
