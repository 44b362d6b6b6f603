"""Traces by OpenTelemetry, from the HTTP call through the Celery message to the steps of the training; off unless configured.

On where `OTEL_EXPORTER_OTLP_ENDPOINT` (or `…_TRACES_ENDPOINT`) names a collector, which needs the extra `tracing`; everything else
is set by OpenTelemetry's own variables. Off, a span costs a call and nothing is imported. A span holds ids, never a sample ID.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fastapi import FastAPI
    from sqlalchemy import Engine

ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
UNTRACED = "livez,readyz,metrics"


def wanted() -> bool:
    """Whether the operator named a collector."""
    return any(os.environ.get(name) for name in ENDPOINTS)


def start(service: str) -> None:
    """Send this process's spans to the collector, where there is one. After a fork, never before: a thread sends them.

    Raises ModuleNotFoundError where a collector is named and the extra `tracing` is not installed.
    """
    if not wanted():
        return
    from opentelemetry import trace
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.instrumentation.celery import CeleryInstrumentor
    from opentelemetry.sdk.resources import SERVICE_NAME, Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    provider = TracerProvider(resource=Resource.create({SERVICE_NAME: service}))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    trace.set_tracer_provider(provider)
    CeleryInstrumentor().instrument()  # type: ignore[no-untyped-call]  # it ships its types half done


def trace_http(app: "FastAPI", engine: "Engine") -> None:
    """Trace an application's calls and the statements that they make, without their parameters."""
    if not wanted():
        return
    from opentelemetry.instrumentation.fastapi import FastAPIInstrumentor
    from opentelemetry.instrumentation.sqlalchemy import SQLAlchemyInstrumentor

    FastAPIInstrumentor.instrument_app(app, excluded_urls=UNTRACED, exclude_spans=["receive", "send"])
    SQLAlchemyInstrumentor().instrument(engine=engine)


@contextmanager
def span(name: str, **attributes: str | int) -> Iterator[None]:
    """A part of the work, under whatever part it is in. What is raised within is not recorded: it may say what it was about."""
    if not wanted():
        yield
        return
    from opentelemetry import trace

    named: dict[str, Any] = {f"expunge.{key}": value for key, value in attributes.items()}
    opened = trace.get_tracer("expunge").start_as_current_span(
        name, attributes=named, record_exception=False, set_status_on_exception=False
    )
    with opened:
        yield


def finish() -> None:
    """Send what has not been sent yet; before a process ends."""
    if not wanted():
        return
    from opentelemetry import trace

    provider: Any = trace.get_tracer_provider()
    if hasattr(provider, "force_flush"):
        provider.force_flush()
