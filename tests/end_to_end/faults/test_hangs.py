"""A workload that hangs: nothing of it may last, and nobody else may wait for it longer than the settings allow."""

from collections.abc import Iterator

import pytest
from sqlalchemy import text

from expunge.stack.process import Child, await_ready, stop
from tests.end_to_end.faults.conftest import Scene, another
from tests.fixtures.waiting import await_that

pytestmark = pytest.mark.end_to_end


@pytest.fixture
def impatient(scene: Scene) -> Iterator[Child]:
    """A worker in place of the stack's, with short limits."""
    stop(scene.part("the worker"))
    limits = {
        "EXPUNGE_STALL_LOAD_SECONDS": "3",
        "EXPUNGE_RETRY_SECONDS": "0",
        "EXPUNGE_SWEEP_SECONDS": "1",
    }
    worker = another(scene.part("the worker"), "the impatient worker", **limits)
    try:
        await_ready(worker)
        yield worker
    finally:
        stop(worker)
        scene.start_and_wait("the worker")


def test_a_factory_that_hangs_is_ended_tried_once_more_and_the_next_job_runs(scene: Scene, impatient: Child) -> None:
    scene.gates.shut("load")
    job_id = scene.submit("hanging")
    scene.gates.await_somebody("load")
    began = last_housekeeping(scene)
    await_that(lambda: last_housekeeping(scene) != began, "the worker to keep house while its child hangs")
    job = scene.watch(job_id)
    assert (job.state, job.reason) == ("failed", "stalled")
    assert scene.outcomes(job_id) == ["failed", "failed"]
    assert "phase load" in str(job.detail)
    scene.gates.open("load")

    next_job = scene.submit("after-the-hanging")
    scene.ended_once("after-the-hanging", next_job)


def last_housekeeping(scene: Scene) -> object:
    with scene.sessions() as session:
        return session.execute(text("SELECT at FROM heartbeats WHERE name = 'sweep'")).scalar_one()


def test_a_job_that_hangs_can_be_cancelled(scene: Scene) -> None:
    stop(scene.part("the worker"))
    limits = {"EXPUNGE_CANCEL_SECONDS": "1", "EXPUNGE_LEASE_SECONDS": "6"}
    worker = another(scene.part("the worker"), "the obedient worker", **limits)
    try:
        await_ready(worker)
        scene.gates.shut("load")
        job_id = scene.submit("cancelled-while-it-hangs")
        scene.gates.await_somebody("load")
        assert scene.http.post(f"/jobs/{job_id}:cancel").status_code == 200
        job = scene.watch(job_id)
        assert (job.state, job.reason) == ("cancelled", "cancelled_by_caller")
    finally:
        stop(worker)
        scene.start_and_wait("the worker")
