"""What goes missing or dies on the way changes nothing about the end."""

from collections.abc import Iterator
from datetime import timedelta

import httpx
import psutil
import pytest
from sqlalchemy.orm import Session, sessionmaker

from expunge import client
from expunge.database import opened
from expunge.embedded.process import start, stop
from expunge.embedded.stack import Stack
from expunge.registration import Place, place, register_workload
from expunge.training import Trained
from ledger.access import ensure_tenant
from ledger.requests import submit
from ledger.samples import sample_digest

pytestmark = [pytest.mark.end_to_end, pytest.mark.slow]

SLOW = "tests.worker.digits:slow"


@pytest.fixture(scope="module")
def where(running: Stack) -> Place:
    return place(running.folder.root)


@pytest.fixture(scope="module")
def sessions(where: Place) -> Iterator[sessionmaker[Session]]:
    with opened(where.database_url) as sessions:
        yield sessions


def register(where: Place, trained: Trained, name: str) -> str:
    """Register a model whose workload takes seconds to load, on a dataset of its own."""
    register_workload(where, name=name, reference=SLOW, weights=trained.path, dataset=name, policy=["retrain"])
    return name


def test_a_job_whose_message_was_lost_is_found_by_the_sweep(
    where: Place, trained: Trained, sessions: sessionmaker[Session], http: httpx.Client
) -> None:
    name = register(where, trained, "lost-message")
    with sessions.begin() as session:
        request = submit(  # The row without the message that the API would have sent.
            session,
            tenant_id=ensure_tenant(session, "default"),
            caller="test",
            dataset=name,
            digests=[sample_digest(where.sample_key, name, f"image-{i}") for i in range(80)],
            batch_window=timedelta(0),
        )
    *_, job = client.watch_job(http, str(request.targets[0].job_id))
    assert job["state"] == "completed", job


def test_a_killed_workers_job_is_done_by_the_next(
    where: Place, trained: Trained, running: Stack, http: httpx.Client
) -> None:
    name = register(where, trained, "killed-worker")
    request = client.submit(http, dataset=name, sample_ids=[f"image-{i}" for i in range(80)])
    (job_id,) = client.job_ids(request)
    job: client.Json = {}
    for job in client.watch_job(http, job_id):
        if job["state"] == "running" and job["attempt"] == 1:
            for child in running.children:
                if child.program.name == "the worker":
                    psutil.Process(child.process.pid).children()[0].kill()
    assert job["state"] == "completed", job
    assert job["attempt"] == 2
    versions = http.get(f"/models/{name}/versions").json()["items"]
    assert [version["number"] for version in versions] == [2, 1]
    texts = [event["text"] for event in http.get(f"/jobs/{job_id}/events").json()["items"]]
    assert any("worker_lost" in text for text in texts), texts


def test_a_worker_that_is_told_to_stop_gives_its_job_back(
    where: Place, trained: Trained, running: Stack, http: httpx.Client
) -> None:
    name = register(where, trained, "stopped-worker")
    request = client.submit(http, dataset=name, sample_ids=[f"image-{i}" for i in range(80)])
    (job_id,) = client.job_ids(request)
    place_of = next(i for i, child in enumerate(running.children) if child.program.name == "the worker")
    job: client.Json = {}
    for job in client.watch_job(http, job_id):
        if job["state"] == "running" and job["attempt"] == 1:
            stop(running.children[place_of])
            assert client.get_job(http, job_id)["state"] == "queued"
            running.children[place_of] = start(running.children[place_of].program)
    assert job["state"] == "completed", job
    attempts = http.get(f"/jobs/{job_id}/attempts").json()["items"]
    assert [attempt["outcome"] for attempt in attempts] == ["released", "published"]
