"""Traces by OpenTelemetry, from the HTTP call through the Celery message to the steps of the training; off unless configured.

`OTEL_EXPORTER_OTLP_ENDPOINT` (or `…_TRACES_ENDPOINT`) names a collector and turns traces on; this needs the extra `tracing`.
OpenTelemetry's own variables set everything else. While traces are off, nothing is imported. A span holds the IDs of jobs and
requests, never a sample ID.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")


def start(service: str) -> None:
    """Send this process's spans to the collector, if there is one. Call it after a fork: a thread sends the spans.

    Raises ModuleNotFoundError if a collector is named and the extra `tracing` is not installed.
    """
    if not is_on():
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
    CeleryInstrumentor().instrument()  # type: ignore[no-untyped-call]  # its types are incomplete


def current_trace() -> str | None:
    """Return the current span as a W3C traceparent; None while traces are off or outside any span."""
    if not is_on():
        return None
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    carrier: dict[str, str] = {}
    TraceContextTextMapPropagator().inject(carrier)
    return carrier.get("traceparent")


@contextmanager
def continued(traceparent: str | None) -> Iterator[None]:
    """Open the spans of this block within the span of a W3C traceparent; None: within the current one."""
    if traceparent is None or not is_on():
        yield
        return
    from opentelemetry import context
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    token = context.attach(TraceContextTextMapPropagator().extract({"traceparent": traceparent}))
    try:
        yield
    finally:
        context.detach(token)


@contextmanager
def span(name: str, **attributes: str | int) -> Iterator[None]:
    """Open a span within the current one. Exceptions are not recorded: their messages may quote what they were raised about."""
    if not is_on():
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
    """Send the last spans. Call it before the process ends."""
    if not is_on():
        return
    from opentelemetry import trace

    provider: Any = trace.get_tracer_provider()
    if hasattr(provider, "force_flush"):
        provider.force_flush()


def is_on() -> bool:
    """Whether a collector is named."""
    return any(os.environ.get(name) for name in ENDPOINTS)
