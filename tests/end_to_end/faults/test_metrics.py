"""What several API processes and a worker's child count, one of which is killed: everything once, whoever is asked."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from expunge import client
from expunge.stack.broker import free_port
from expunge.stack.process import Program, await_ready, start, stop
from expunge.stack.stack import Stack, api
from tests.end_to_end.faults.conftest import SAMPLES, Scene
from tests.fixtures.waiting import PATIENCE

pytestmark = pytest.mark.end_to_end

NAME = "counted-once"


@contextmanager
def api_processes(running: Stack, folder: Path, count: int) -> Iterator[str]:
    """A second API of several processes on the running stack's database and broker; gives its address."""
    given = next(child.program for child in running.children if child.program.name == "the API")
    environment = {**(given.environment or {}), "PROMETHEUS_MULTIPROC_DIR": str(folder)}
    port = free_port()
    made = api(running.folder, environment, host="127.0.0.1", port=port)
    program = Program(
        name="several APIs",
        # On a busy machine a process may take long to answer its parent's ping, which then would start another in its place.
        command=(*made.command, "--workers", str(count), "--timeout-worker-healthcheck", "120"),
        log=folder / "api.log",
        ready=made.ready,
        ready_within=180,
        environment=environment,
    )
    child = start(program)
    try:
        await_ready(child)
        yield f"http://127.0.0.1:{port}"
    finally:
        stop(child)


def test_a_killed_child_and_several_processes_lose_nothing_and_count_nothing_twice(
    scene: Scene, tmp_path: Path
) -> None:
    """A job whose worker's child is killed once, requested from one of two API processes, each answering scrapes."""
    scene.register(NAME)
    assert scene.stack.api_key is not None
    with api_processes(scene.stack, tmp_path, 2) as url, client.connect(url, scene.stack.api_key) as http:
        before = counts(url)
        scene.gates.shut("load")
        (job_id,) = client.job_ids(client.submit(http, dataset=NAME, sample_ids=SAMPLES))
        scene.gates.await_somebody("load")
        scene.worker_child().kill()
        scene.gates.open("load")
        scene.expire_lease(job_id)
        scene.ended_once(NAME, job_id)
        for _ in range(30):  # each on a connection of its own, so that any process may take it
            httpx.get(f"{url}/methods", timeout=PATIENCE, trust_env=False)
        scrapes = [counts(url) for _ in range(6)]

    assert len({path.name.split("_")[-1] for path in tmp_path.glob("counter_*.db")}) == 2
    assert len({frozenset(scrape.items()) for scrape in scrapes}) == 1
    after = scrapes[0]
    assert after["expired"] - before["expired"] == 1
    assert after["received"] - before["received"] == 1
    assert after["sent"] - before["sent"] == 1
    assert after["methods"] == 30
    assert after["timed"] == 1


def counts(url: str) -> dict[str, float]:
    """What the several processes say together, whichever answers."""
    text = httpx.get(f"{url}/metrics", timeout=PATIENCE, trust_env=False).text
    found = [sample for family in text_string_to_metric_families(text) for sample in family.samples]

    def total(name: str, **labels: str) -> float:
        return sum(sample.value for sample in found if sample.name == name and labels.items() <= sample.labels.items())

    return {
        "expired": total("expunge_lease_expired_total"),
        "received": total("expunge_requests_received_total"),
        "sent": total("expunge_wakeups_total", outcome="sent"),
        "methods": total("http_requests_total", handler="/methods"),
        "timed": total("expunge_unlearning_seconds_count", model=NAME),
    }
