"""A workload that hangs: nothing of it may last, and nobody else may wait for it longer than the settings allow."""

from collections.abc import Iterator

import pytest
from sqlalchemy import select

from ledger.jobs.workers import WORKER
from ledger.tables import Heartbeat
from tests.end_to_end.faults.conftest import Scene
from tests.fixtures.waiting import await_that

pytestmark = pytest.mark.end_to_end


@pytest.fixture
def _impatient(scene: Scene) -> Iterator[None]:
    with scene.replaced("the worker", "the impatient worker", EXPUNGE_STALL_LOAD_SECONDS="3"):
        yield


@pytest.mark.slow
@pytest.mark.usefixtures("_impatient")
def test_a_factory_that_hangs_is_ended_tried_once_more_and_the_next_job_runs(scene: Scene) -> None:
    scene.gates.shut("load")
    job_id = scene.submit("hanging")
    scene.gates.await_somebody("load")
    began = last_heartbeat(scene)
    await_that(lambda: last_heartbeat(scene) != began, "the worker to show that it is there while its child hangs")
    job = scene.watch(job_id)
    assert (job.state, job.reason) == ("failed", "stalled")
    assert scene.outcomes(job_id) == ["failed", "failed"]
    assert "phase load" in str(job.detail)
    scene.gates.open("load")

    next_job = scene.submit("after-the-hanging")
    scene.ended_once("after-the-hanging", next_job)


def last_heartbeat(scene: Scene) -> object:
    with scene.sessions() as session:
        return session.scalars(select(Heartbeat.at).where(Heartbeat.name == WORKER)).one()


def test_a_job_that_hangs_can_be_cancelled(scene: Scene) -> None:
    """In the method, whose limit is an hour."""
    scene.gates.shut("unlearn")
    job_id = scene.submit("cancelled-while-it-hangs")
    scene.gates.await_somebody("unlearn")
    assert scene.http.post(f"/jobs/{job_id}:cancel").status_code == 200
    job = scene.watch(job_id)
    assert (job.state, job.reason) == ("cancelled", "cancelled_by_caller")
