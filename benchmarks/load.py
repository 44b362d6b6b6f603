"""Throughput and latency of the service: `python -m benchmarks.load`.

The embedded stack and its callers share one machine, so every figure is a lower bound of what the service alone can do. Measured
are POST with 100 IDs each from several callers while a job runs, one request for 100,000 IDs, polling with ETags, the time from
POST to a worker's first step when idle, and the overhead of a job beyond its phases.
"""

import argparse
import http.client
import json
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from urllib.parse import urlsplit

import numpy as np

from benchmarks.serving import Served, api_seconds, served, training_ids
from benchmarks.writing import Row, row, write
from expunge import client
from expunge.operator.deployment import find_deployment, open_database
from ledger.registry.access import ensure_tenant
from ledger.registry.datasets import register_dataset
from ledger.registry.models import register_model
from ledger.sample_ids import sample_digest

SLOW = "tests.worker.digits:long"
MANY = 100_000


def main() -> None:
    """Measure everything, print the figures and write them."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--seconds", type=float, default=6, help="of each run under load")
    arguments.add_argument("--runs", type=int, default=3)
    arguments.add_argument("--callers", type=int, nargs="+", default=[1, 8])
    given = arguments.parse_args()
    with served(EXPUNGE_BATCH_WINDOW_SECONDS="0", EXPUNGE_LEASE_SECONDS="60") as service:
        rows = idle(service, runs=given.runs + 2)
        for callers in given.callers:
            rows += posting(service, callers=callers, seconds=given.seconds, runs=given.runs)
        rows += polling(service, seconds=given.seconds, runs=given.runs)
        rows += many_at_once(service, runs=given.runs)
    with served(EXPUNGE_BATCH_WINDOW_SECONDS="0", WEB_CONCURRENCY="2") as service:
        rows += polling(service, seconds=given.seconds, runs=given.runs, method="ETag, two API processes")
    for found in rows:
        print(f"{found.case:>34} {found.metric:>20} {found.mean:10.4f} [{found.low:.4f}, {found.high:.4f}] n={found.n}")
    print(write("load", rows))


def idle(service: Served, *, runs: int) -> list[Row]:
    """Measure the time from POST to the method's first step, and the overhead of a job."""
    waits, overheads, shares = [], [], []
    for run in range(runs):
        name = service.register(f"idle-{run}")
        sent = datetime.now(UTC)
        request = service.submit(name, training_ids()[:200])
        (job_id,) = client.job_ids(request)
        job = service.ended(job_id)
        began = next(event.at for event in client.list_events(service.http, job_id) if event.text == "Phase: unlearn.")
        assert job.finished_at is not None
        took = (job.finished_at - sent).total_seconds()
        compute = sum(job.timings.values())
        waits.append((began - sent).total_seconds())
        overheads.append(took - compute)
        shares.append((took - compute) / took)
    of_first = {"case": "first of a new worker", "method": "retrain"}
    case = {"case": "idle", "method": "retrain"}
    return [
        row(waits[:1], **of_first, metric="first_step_seconds", unit="s"),
        row(waits[1:], **case, metric="first_step_seconds", unit="s"),
        row(overheads[1:], **case, metric="overhead_seconds", unit="s"),
        row(shares[1:], **case, metric="overhead_ratio", unit=""),
    ]


def posting(service: Served, *, callers: int, seconds: float, runs: int) -> list[Row]:
    """Measure POST /unlearn-requests with 100 IDs each, from several callers, while a job runs."""
    rates, medians, tails = [], [], []
    for run in range(runs):
        name = service.register(f"busy-{callers}-{run}", reference=SLOW)
        running = client.job_ids(service.submit(name, training_ids()[:200]))[0]
        while (job := client.get_job(service.http, running)).phase != "unlearn":
            assert job.finished_at is None, f"the job that was to run meanwhile is {job.state}: {job.detail}"
            time.sleep(0.05)
        other = service.register(f"asked-{callers}-{run}")
        ids = training_ids()

        def ask(number: int, other: str = other, ids: list[str] = ids) -> tuple[str, str, bytes]:
            some = [ids[(number * 100 + i) % len(ids)] for i in range(100)]
            return "POST", "/unlearn-requests", json.dumps({"dataset": other, "sample_ids": some}).encode()

        latencies = under_load(service, ask, callers=callers, seconds=seconds, accepted={202})
        rates.append(len(latencies) / seconds)
        medians.append(float(np.quantile(latencies, 0.5)))
        tails.append(float(np.quantile(latencies, 0.99)))
        service.ended(running)
    case = {"case": f"POST of 100 IDs, {callers} callers", "method": "while a job runs"}
    return [
        row(rates, **case, metric="requests_per_second", unit="1/s"),
        row(medians, **case, metric="p50_seconds", unit="s"),
        row(tails, **case, metric="p99_seconds", unit="s"),
    ]


def polling(service: Served, *, seconds: float, runs: int, method: str = "ETag", callers: int = 16) -> list[Row]:
    """Measure GET /jobs/{id} with the last ETag: calls per second, and per CPU second of the API."""
    name = service.register("polled")
    (job_id,) = client.job_ids(service.submit(name, training_ids()[:200]))
    service.ended(job_id)
    tag = service.http.get(f"/jobs/{job_id}").headers["ETag"]
    rates, tails, bought = [], [], []
    for _ in range(runs):
        before = api_seconds(service.stack)
        latencies = under_load(
            service,
            lambda number: ("GET", f"/jobs/{job_id}", b""),
            callers=callers,
            seconds=seconds,
            accepted={304},
            **{"If-None-Match": tag},
        )
        rates.append(len(latencies) / seconds)
        tails.append(float(np.quantile(latencies, 0.99)))
        bought.append(len(latencies) / (api_seconds(service.stack) - before))
    case = {"case": f"polling, {callers} callers", "method": method}
    return [
        row(rates, **case, metric="requests_per_second", unit="1/s"),
        row(tails, **case, metric="p99_seconds", unit="s"),
        row(bought, **case, metric="calls_per_processor_second", unit="1/s"),
    ]


def many_at_once(service: Served, *, runs: int) -> list[Row]:
    """Measure one request for 100,000 IDs."""
    where, times = find_deployment(service.stack.folder.root), []
    ids = [f"person-{number:07d}" for number in range(MANY)]
    with open_database(where.database_url) as sessions, sessions.begin() as session:
        tenant_id = ensure_tenant(session, "default")
        digests = [sample_digest(where.sample_key, "people", sample) for sample in ids]
        register_dataset(session, tenant_id=tenant_id, name="people", digests=digests)
        for run in range(runs):
            register_model(
                session,
                tenant_id=tenant_id,
                name=f"people-{run}",
                dataset="people",
                workload="tests.worker.digits:workload",
                training=digests,
                weights_sha256="0" * 64,
                weights_path="0.safetensors",
                policy=[{"kind": "retrain"}],
                details={},
            )
    for run in range(runs):
        began = time.monotonic()
        answer = service.http.post(
            "/unlearn-requests", json={"dataset": "people", "sample_ids": ids, "models": [f"people-{run}"]}
        )
        times.append(time.monotonic() - began)
        assert answer.status_code == 202, answer.text
    return [row(times, case=f"one request for {MANY:,} IDs", method="inline", metric="seconds", unit="s")]


def under_load(
    service: Served,
    ask: Callable[[int], tuple[str, str, bytes]],
    *,
    callers: int,
    seconds: float,
    accepted: set[int],
    **headers: str,
) -> list[float]:
    """Run several callers, each of which calls again after a response; return the seconds of each call."""
    url, key = urlsplit(service.stack.url), service.stack.api_key
    given = {"Authorization": f"Bearer {key}", "Content-Type": "application/json", **headers}
    latencies: list[float] = []
    refused: list[int] = []
    until = time.monotonic() + seconds

    def call_again(caller: int) -> None:
        connection = http.client.HTTPConnection(url.hostname or "", url.port, timeout=60)
        number = caller
        while time.monotonic() < until:
            method, path, body = ask(number)
            began = time.monotonic()
            connection.request(method, path, body=body or None, headers=given)
            answer = connection.getresponse()
            answer.read()
            latencies.append(time.monotonic() - began)
            number += callers
            if answer.status not in accepted:
                refused.append(answer.status)
        connection.close()

    threads = [threading.Thread(target=call_again, args=(caller,)) for caller in range(callers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not refused, f"{len(refused)} calls were answered otherwise: {sorted(set(refused))}"
    return latencies


if __name__ == "__main__":
    main()
