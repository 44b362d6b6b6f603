"""Workers that are killed, stopped and frozen."""

import itertools
import signal

import psutil
import pytest
from sqlalchemy import text

from expunge.stack.process import await_ready, stop
from ledger.states import AttemptOutcome
from tests.end_to_end.faults.conftest import Scene, another, signal_all
from tests.fixtures.waiting import await_that

pytestmark = pytest.mark.end_to_end

STEPS = 60
"""Of the retraining: 20 epochs of 3 batches."""

GATES = {"load": "load", "unlearn": "unlearn", "audit": "audit_membership", "save": "report"}
"""Gates in the order in which a job comes to them, with its phase there. The last phase, publish, is one transaction."""


@pytest.mark.parametrize(
    ("first", "stops"),
    [
        pytest.param("child", ["unlearn", "audit"], id="child-resumed"),
        *(pytest.param(part, list(GATES), id=part, marks=pytest.mark.slow) for part in ("child", "parent")),
    ],
)
def test_a_worker_may_be_killed_in_every_phase_of_one_job(scene: Scene, first: str, stops: list[str]) -> None:
    """By turns the child, in which jobs run, and its parent, with which the child ends.

    The quick case has the phases that go on from a checkpoint, of the method or after it; test_metrics.py kills a child that loads.
    """
    name = f"killed-{first}-first-{len(stops)}"
    scene.gates.shut(stops[0])
    job_id = scene.submit(name)
    turns = itertools.dropwhile(lambda part: part != first, itertools.cycle(["child", "parent"]))

    def kill() -> None:
        if next(turns) == "child":
            scene.worker_child().kill()
            return
        scene.kill("the worker")
        scene.start("the worker")

    for gate, following in itertools.pairwise(stops):
        scene.gates.await_somebody(gate)
        assert scene.job(job_id).phase == GATES[gate]
        scene.gates.shut(following)
        kill()
        scene.gates.open(gate)
        scene.expire_lease(job_id)
    scene.gates.await_somebody(stops[-1])
    kill()
    with scene.sessions.begin() as session:
        # No sample can be written as erased, so that publishing hangs in its middle.
        session.execute(text("LOCK TABLE erased_samples IN SHARE ROW EXCLUSIVE MODE"))
        scene.gates.open(stops[-1])
        scene.expire_lease(job_id)
        await_that(lambda: scene.job(job_id).phase == "publish", "the job to be published")
        kill()
    scene.expire_lease(job_id)

    scene.ended_once(name, job_id)
    assert scene.outcomes(job_id) == [AttemptOutcome.EXPIRED] * (len(stops) + 1) + ["published"]
    assert set(scene.reasons(job_id)[:-1]) == {"worker_lost"}
    resumed = scene.events(job_id, "job.resumed")
    killed_in_the_method = stops.index("unlearn") + 1
    assert killed_in_the_method + 1 in [event["attempt"] for event in resumed]
    # Killed after the method, only the audit is done again.
    assert [event["step"] for event in resumed].count(STEPS) == len(stops) + 1 - killed_in_the_method


@pytest.mark.slow
def test_a_lease_expires_by_itself_and_the_job_goes_on_within_two_minutes(scene: Scene) -> None:
    scene.gates.shut("unlearn")
    job_id = scene.submit("left-alone")
    scene.gates.await_somebody("unlearn")
    scene.worker_child().kill()
    scene.gates.open("unlearn")

    scene.ended_once("left-alone", job_id)
    assert scene.outcomes(job_id) == [AttemptOutcome.EXPIRED, "published"]
    assert "the worker stopped renewing its lease in phase unlearn" in str(
        scene.http.get(f"/jobs/{job_id}/attempts").json()
    )


def test_a_frozen_worker_that_wakes_after_its_lease_can_write_nothing_and_a_stopped_one_hands_its_job_on(
    scene: Scene,
) -> None:
    """The one that is stopped took the frozen one's place, and hands its next job on to it at a checkpoint."""
    scene.gates.shut("unlearn")
    job_id = scene.submit("frozen")
    scene.gates.await_somebody("unlearn")
    frozen = psutil.Process(scene.part("the worker").process.pid)
    signal_all(frozen, signal.SIGSTOP)
    scene.gates.open("unlearn")
    second = another(scene.part("the worker"), "the second worker")
    try:
        await_ready(second)
        scene.expire_lease(job_id)
        scene.ended_once("frozen", job_id)
        before = refused(scene)
        version = scene.http.get("/models/frozen/versions").json()["items"][0]

        scene.gates.shut("unlearn")
        next_job = scene.submit("handed-on")
        scene.gates.await_somebody("unlearn")
        second.process.send_signal(signal.SIGTERM)
        scene.gates.open("unlearn")
        stop(second)
        assert scene.job(next_job).state == "queued"

        signal_all(frozen, signal.SIGCONT)
        await_that(lambda: refused(scene) > before, "the woken worker to be refused")
    finally:
        signal_all(frozen, signal.SIGCONT)
        stop(second)

    assert scene.events(job_id, "job.write_refused") == [{"attempt": 1}]
    assert scene.http.get("/models/frozen/versions").json()["items"][0] == version
    assert scene.outcomes(job_id) == [AttemptOutcome.EXPIRED, "published"]
    scene.ended_once("handed-on", next_job)
    assert scene.outcomes(next_job) == ["released", "published"]
    assert [event["attempt"] for event in scene.events(next_job, "job.resumed")] == [2]


def refused(scene: Scene) -> float:
    lines = scene.http.get("/metrics").text.splitlines()
    (line,) = (line for line in lines if line.startswith("expunge_stale_writes_rejected_total "))
    return float(line.split()[1])
