import sys

import pytest

from telemetry import tracing


@pytest.fixture
def not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """As where the extra `tracing` is not installed."""
    for name in [name for name in sys.modules if name.split(".")[0] == "opentelemetry"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "opentelemetry", None)
    for name in tracing.ENDPOINTS:
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize("endpoint", [None, ""])
def test_it_is_off_where_no_collector_is_named_and_needs_nothing_then(
    endpoint: str | None, not_installed: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    if endpoint is not None:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint)

    tracing.start("test")
    with tracing.span("job", job_id="j"):
        pass
    tracing.finish()


def test_a_collector_without_the_extra_is_reported_at_the_start(
    not_installed: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://127.0.0.1:1/v1/traces")

    with pytest.raises(ModuleNotFoundError, match="opentelemetry"):
        tracing.start("test")
