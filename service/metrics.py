"""Metrics: what this process counts about HTTP, and what the exporter reads from the ledger."""

import logging
import os

from fastapi import FastAPI
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_fastapi_instrumentator import Instrumentator

logger = logging.getLogger(__name__)

UNCOUNTED = ["/metrics", "/livez", "/readyz"]


def make_registry() -> CollectorRegistry:
    """A registry of one application's own, so that two in one process do not collide."""
    return CollectorRegistry(auto_describe=True)


def instrument(app: FastAPI, registry: CollectorRegistry) -> None:
    """Count and time every call by its route's template, method and status."""
    Instrumentator(registry=registry, excluded_handlers=UNCOUNTED, should_group_status_codes=False).instrument(app)


def exposition(app: FastAPI) -> bytes:
    """All metrics in Prometheus' text format.

    What processes count themselves is summed over them where the operator runs several and sets PROMETHEUS_MULTIPROC_DIR. What the
    ledger knows is read from it at each scrape, so it is the same whichever process answers and survives all of them.
    """
    registry: CollectorRegistry = app.state.metrics
    if "PROMETHEUS_MULTIPROC_DIR" in os.environ:
        registry = CollectorRegistry()
        MultiProcessCollector(registry)  # type: ignore[no-untyped-call]  # prometheus_client leaves this constructor untyped
    return generate_latest(registry) + generate_latest(_FromLedger(app.state.database, app.version))


class _FromLedger(CollectorRegistry):
    """A stub"""
