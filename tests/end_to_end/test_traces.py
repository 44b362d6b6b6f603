"""A stack on given servers: one trace from the HTTP call to the steps in the worker's child, whoever sent the wake-up."""

import dataclasses
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from email.message import Message

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from expunge import client
from expunge.operator.deployment import find_deployment
from expunge.operator.registration import register_workload
from expunge.operator.training import Trained
from expunge.stack.stack import Stack, run_stack
from ledger.resources import UnlearnRequest
from tests.end_to_end.conftest import REFERENCE, SAMPLES, options
from tests.fixtures.registration import RETRAINED
from tests.fixtures.servers import answering
from tests.fixtures.waiting import await_that

pytestmark = pytest.mark.end_to_end

STEPS = {("expunge-worker", name) for name in ("job", "load", "unlearn", "step", "audit", "publish")}


@contextmanager
def collector() -> Iterator[tuple[str, list[tuple[str, Span]]]]:
    """The address of a collector, and what it has received: each span with the name of the service that sent it."""
    received: list[tuple[str, Span]] = []

    def receive(_method: str, _target: str, _headers: Message, body: bytes) -> tuple[int, bytes]:
        for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
            (name,) = (a.value.string_value for a in resource.resource.attributes if a.key == "service.name")
            received.extend((name, span) for scope in resource.scope_spans for span in scope.spans)
        return 200, b""

    with answering(receive) as url:
        yield url, received


def names(received: Sequence[tuple[str, Span]]) -> set[tuple[str, str]]:
    """The spans of the trace that the call for unlearning began, each by its service and its name."""
    spans = list(received)
    traces = {s.trace_id for name, s in spans if name == "expunge-api" and s.name == "POST /unlearn-requests"}
    return {(name, s.name) for name, s in spans if s.trace_id in traces}


def test_a_stack_on_given_servers_starts_none_and_its_trace_leads_from_the_call_to_the_step(
    database_url: str, running: Stack, trained: Trained, tmp_path_factory: pytest.TempPathFactory
) -> None:
    with collector() as (address, received):
        given = options(tmp_path_factory.mktemp("traced") / "data")
        environment = {"OTEL_EXPORTER_OTLP_ENDPOINT": address, "EXPUNGE_LOG": "json", "OTEL_BSP_SCHEDULE_DELAY": "200"}
        environment |= {"EXPUNGE_BATCH_WINDOW_SECONDS": "1"}  # so the beat sends the wake-up, not the call itself
        traced = dataclasses.replace(
            given,
            database_url=database_url,
            redis_url=running.settings.redis_url.replace("/0", "/2"),
            environment={**given.environment, **environment},
        )
        with run_stack(traced) as other, client.connect(other.url, other.api_key or "") as http:
            where = find_deployment(other.folder.root)
            assert [child.program.name for child in other.children] == ["the worker", "the beat", "the API"]
            register_workload(
                where,
                name="traced",
                reference=REFERENCE,
                weights=trained.path,
                **RETRAINED,
            )
            call = http.post("/unlearn-requests", json={"dataset": "few-digits", "sample_ids": SAMPLES})
            (job_id,) = client.job_ids(UnlearnRequest.model_validate_json(call.content))
            *_, job = client.watch_job(http, job_id)
            assert job.state == "completed", job
            # The worker sends its spans a moment after they end, and none once it is stopped.
            await_that(lambda: names(received) >= STEPS, "the spans of the job's steps")
            log = (other.folder.logs / "worker.log").read_text()

    assert not any(sample.encode() in s.SerializeToString() for _, s in received for sample in SAMPLES[:20])
    assert f'"job_id": "{job_id}"' in log
    assert "image-" not in log
