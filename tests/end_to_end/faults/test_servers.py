"""The database and the broker go away and come back, and messages are lost and doubled."""

import shutil
import signal
from uuid import UUID

import pytest
from celery import Celery

from ledger.events.outbox import RUN_JOB
from ledger.states import AttemptOutcome
from tests.end_to_end.faults.conftest import Scene

pytestmark = pytest.mark.end_to_end


@pytest.mark.parametrize(
    "how",
    [pytest.param(signal.SIGINT, marks=pytest.mark.slow, id="restarted"), pytest.param(signal.SIGQUIT, id="crashed")],
)
def test_a_database_that_goes_away_costs_at_most_an_attempt(scene: Scene, how: signal.Signals) -> None:
    name = f"without-a-database-{how.name.lower()}"
    scene.gates.shut("unlearn")
    job_id = scene.submit(name)
    scene.gates.await_somebody("unlearn")
    scene.kill("PostgreSQL", how)
    assert scene.http.get("/readyz").status_code == 503
    assert scene.http.get(f"/jobs/{job_id}").status_code == 503
    scene.gates.open("unlearn")
    scene.start_and_wait("PostgreSQL")

    scene.ended_once(name, job_id)
    assert scene.outcomes(job_id)[:-1] in ([], [AttemptOutcome.EXPIRED])


def test_a_broker_that_comes_back_empty_loses_no_request(scene: Scene) -> None:
    scene.gates.shut("unlearn")
    busy = scene.submit("before-the-broker")
    scene.gates.await_somebody("unlearn")
    scene.kill("the broker")
    waiting = scene.submit("while-the-broker")  # Accepted without it.
    shutil.rmtree(scene.stack.folder.broker)
    scene.stack.folder.broker.mkdir()
    scene.start_and_wait("the broker")
    scene.gates.open("unlearn")

    assert scene.ended_once("before-the-broker", busy).attempt == 1
    scene.ended_once("while-the-broker", waiting)


def test_messages_may_be_lost_and_doubled(scene: Scene) -> None:
    """The row without the message that the API would have sent; then many for the same job, while it runs and after."""
    scene.gates.shut("unlearn")
    job_id = scene.submit_without_a_message("lost-message")
    scene.gates.await_somebody("unlearn")
    send_again(scene, job_id)
    scene.gates.open("unlearn")
    scene.ended_once("lost-message", job_id)
    send_again(scene, job_id)
    scene.ended_once("lost-message", job_id)
    assert scene.outcomes(job_id) == ["published"]


def send_again(scene: Scene, job_id: UUID) -> None:
    with Celery(broker=scene.stack.settings.redis_url, set_as_current=False) as sender:
        for _ in range(5):
            sender.send_task(RUN_JOB, args=[str(job_id)], ignore_result=True)
