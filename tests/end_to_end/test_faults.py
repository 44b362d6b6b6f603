"""What goes missing or dies on the way changes nothing about the end."""

import shutil
import time
from collections.abc import Iterator
from datetime import timedelta

import httpx
import psutil
import pytest
from celery import Celery
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
from ledger.wakeups import RUN_JOB
from tests.end_to_end.conftest import SAMPLES

pytestmark = [pytest.mark.end_to_end, pytest.mark.slow]

SLOW = "tests.worker.digits:slow"
LONG = "tests.worker.digits:long"


@pytest.fixture(scope="module")
def where(running: Stack) -> Place:
    return place(running.folder.root)


@pytest.fixture(scope="module")
def sessions(where: Place) -> Iterator[sessionmaker[Session]]:
    with opened(where.database_url) as sessions:
        yield sessions


def register(where: Place, trained: Trained, name: str, *, reference: str = SLOW) -> str:
    """Register a model on a dataset of its own, by default one whose workload takes seconds to load."""
    register_workload(where, name=name, reference=reference, weights=trained.path, dataset=name, policy=["retrain"])
    return name


def place_of(running: Stack, name: str) -> int:
    """Where a part of the stack is among its children."""
    return next(i for i, child in enumerate(running.children) if child.program.name == name)


def ended_once(http: httpx.Client, name: str, job_id: str) -> client.Json:
    """Follow the job to its end: completed, with one version published by it."""
    *_, job = client.watch_job(http, job_id)
    assert job["state"] == "completed", job
    assert [version["number"] for version in http.get(f"/models/{name}/versions").json()["items"]] == [2, 1]
    return job


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
            digests=[sample_digest(where.sample_key, name, sample) for sample in SAMPLES],
            batch_window=timedelta(0),
        )
    *_, job = client.watch_job(http, str(request.targets[0].job_id))
    assert job["state"] == "completed", job


def test_a_killed_workers_job_is_done_by_the_next(
    where: Place, trained: Trained, running: Stack, http: httpx.Client
) -> None:
    name = register(where, trained, "killed-worker")
    request = client.submit(http, dataset=name, sample_ids=SAMPLES)
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
    request = client.submit(http, dataset=name, sample_ids=SAMPLES)
    (job_id,) = client.job_ids(request)
    worker = place_of(running, "the worker")
    job: client.Json = {}
    for job in client.watch_job(http, job_id):
        if job["state"] == "running" and job["attempt"] == 1:
            stop(running.children[worker])
            assert client.get_job(http, job_id)["state"] == "queued"
            running.children[worker] = start(running.children[worker].program)
    assert job["state"] == "completed", job
    attempts = http.get(f"/jobs/{job_id}/attempts").json()["items"]
    assert [attempt["outcome"] for attempt in attempts] == ["released", "published"]


def test_a_worker_that_is_killed_while_the_method_runs_costs_one_attempt(
    where: Place, trained: Trained, running: Stack, http: httpx.Client
) -> None:
    name = register(where, trained, "killed-in-unlearning", reference=LONG)
    request = client.submit(http, dataset=name, sample_ids=SAMPLES)
    (job_id,) = client.job_ids(request)
    limit = time.monotonic() + 60
    while client.get_job(http, job_id)["phase"] != "unlearn":
        assert time.monotonic() < limit
        time.sleep(0.05)
    psutil.Process(running.children[place_of(running, "the worker")].process.pid).children()[0].kill()

    assert ended_once(http, name, job_id)["attempt"] == 2
    outcomes = [attempt["outcome"] for attempt in http.get(f"/jobs/{job_id}/attempts").json()["items"]]
    assert outcomes == ["lapsed", "published"]


def test_a_broker_that_is_killed_and_comes_back_empty_loses_no_request(
    where: Place, trained: Trained, running: Stack, http: httpx.Client
) -> None:
    names = [register(where, trained, name) for name in ("before-the-broker", "while-the-broker")]
    busy, waiting = (client.job_ids(client.submit(http, dataset=name, sample_ids=SAMPLES))[0] for name in names)
    broker = place_of(running, "the broker")
    running.children[broker].process.kill()
    running.children[broker].process.wait()
    shutil.rmtree(running.folder.broker)
    running.folder.broker.mkdir()
    running.children[broker] = start(running.children[broker].program)

    ended_once(http, names[0], busy)
    ended_once(http, names[1], waiting)


def test_a_message_that_is_delivered_many_times_is_one_result(
    where: Place, trained: Trained, running: Stack, http: httpx.Client
) -> None:
    name = register(where, trained, "many-messages")
    request = client.submit(http, dataset=name, sample_ids=SAMPLES)
    (job_id,) = client.job_ids(request)
    sender = Celery(broker=running.settings.redis_url, set_as_current=False)
    for _ in range(5):
        sender.send_task(RUN_JOB, args=[job_id], ignore_result=True)
    sender.close()

    assert ended_once(http, name, job_id)["attempt"] == 1
    assert len(http.get(f"/jobs/{job_id}/attempts").json()["items"]) == 1
