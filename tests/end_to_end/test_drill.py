"""The operator's drill of docs/runbook.md: the alerts' real expressions in a real Prometheus; only their times are shorter."""

import shutil
from pathlib import Path

import httpx
import psutil
import pytest

from expunge import client
from expunge.operator.deployment import find_deployment
from expunge.operator.registration import register_workload
from expunge.operator.training import Trained
from expunge.stack.process import await_ready, start, stop
from expunge.stack.stack import Stack
from ops.prometheus.local import prometheus
from tests.end_to_end.conftest import REFERENCE, SAMPLES
from tests.fixtures.registration import RETRAINED
from tests.fixtures.waiting import await_that

pytestmark = [
    pytest.mark.end_to_end,
    pytest.mark.skipif(
        shutil.which("prometheus") is None, reason="prometheus is not installed (apt-get install prometheus)"
    ),
]

SHORTER = {
    "expunge_worker_seen_timestamp_seconds > 300": "expunge_worker_seen_timestamp_seconds > 5",
    "for: 1m": "for: 1s",
}


def hurried(rules: str) -> str:
    """The rules with seconds in place of minutes."""
    for long, short in SHORTER.items():
        rules = rules.replace(long, short)
    return rules


@pytest.mark.slow
def test_the_drill_a_killed_worker_raises_its_alert_and_a_started_one_clears_it(
    running: Stack, http: httpx.Client, trained: Trained, tmp_path: Path
) -> None:
    worker = next(i for i, child in enumerate(running.children) if child.program.name == "the worker")
    where = find_deployment(running.folder.root)
    register_workload(
        where,
        name="drill",
        reference=REFERENCE,
        weights=trained.path,
        dataset="drill",
        **RETRAINED,
    )

    with prometheus(running.settings, tmp_path, interval="1s", edit=hurried) as seen:
        await_that(lambda: seen.query("expunge_worker_seen_timestamp_seconds"), "the first scrape")
        await_that(lambda: "ExpungeWorkerAbsent" not in seen.firing(), "quiet")

        parent = psutil.Process(running.children[worker].process.pid)
        for process in [*parent.children(recursive=True), parent]:
            process.kill()
        (job_id,) = client.job_ids(client.submit(http, dataset="drill", sample_ids=SAMPLES))
        await_that(lambda: "ExpungeWorkerAbsent" in seen.firing(), "the alert")
        assert client.get_job(http, job_id).state == "queued"

        stop(running.children[worker])
        running.children[worker] = start(running.children[worker].program)
        await_ready(running.children[worker])
        *_, job = client.watch_job(http, job_id)
        await_that(lambda: "ExpungeWorkerAbsent" not in seen.firing(), "the alert to clear")

    assert job.state == "completed", job
