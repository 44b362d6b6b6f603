import pytest
from sqlalchemy import select, text

from ledger.errors import IllegalMove
from ledger.events.timeline import list_job_events, list_request_events
from ledger.jobs.transitions import advance, advance_job
from ledger.states import JobState, RequestState
from ledger.tables import Job
from tests.ledger.conftest import nothing_written


def test_a_move_that_is_not_in_the_table_writes_nothing(world):
    job_id = world.submit(1).targets[0].job.id
    with (
        nothing_written(world),
        pytest.raises(IllegalMove, match="from queued to verifying"),
        world.sessions.begin() as session,
    ):
        advance(session, Job, [job_id], JobState.VERIFYING)


def test_a_row_that_this_session_has_loaded_is_read_again_under_the_lock(world):
    job_id = world.submit(1).targets[0].job.id
    with world.sessions() as session:
        assert session.scalars(select(Job)).one().state == JobState.QUEUED
        world.claim(job_id)
        with pytest.raises(IllegalMove, match="from running to completed"):
            advance(session, Job, [job_id], JobState.COMPLETED)


def test_state_and_event_are_one_transaction(world):
    request = world.submit(1)
    with world.sessions() as session:
        advance_job(session, request.targets[0].job.id, JobState.CANCELLED)
        session.rollback()
    with world.sessions.begin() as session:
        kinds = [e.kind for e in list_job_events(session, tenant_id=world.tenant_id, job_id=request.targets[0].job.id)]
    assert kinds == ["job.opened", "job.joined"]
    assert world.request(request.id).state == RequestState.SCHEDULED


def test_a_job_takes_its_targets_and_their_requests_along(world):
    first, second = world.submit(1), world.submit(2)
    claim = world.claim(first.targets[0].job.id)
    assert {world.request(r.id).state for r in (first, second)} == {RequestState.RUNNING}
    world.finish(claim)
    assert {world.request(r.id).state for r in (first, second)} == {RequestState.COMPLETED}
    with world.sessions() as session:
        events = list_request_events(session, tenant_id=world.tenant_id, request_id=first.id)
    assert [event.kind for event in events] == [
        "request.received",
        "target.scheduled",
        "request.scheduled",
        "target.running",
        "request.running",
        "target.verifying",
        "request.verifying",
        "target.completed",
        "request.completed",
    ]
    assert events == sorted(events, key=lambda event: event.at)
    assert events[-2].data["model"] == "small"


def test_the_database_refuses_a_running_job_without_a_lease(world):
    job_id = world.submit(1).targets[0].job.id
    with world.sessions() as session, pytest.raises(Exception, match="ck_jobs_lease"):
        session.execute(text("UPDATE jobs SET state = 'running', frozen_at = now() WHERE id = :id"), {"id": job_id})
