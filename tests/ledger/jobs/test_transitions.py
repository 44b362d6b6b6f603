import re
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
from sqlalchemy import select, text

from ledger.errors import IllegalMove
from ledger.events.timeline import list_job_events, list_request_events
from ledger.jobs import transitions
from ledger.jobs.attempts import count_refused_write
from ledger.jobs.cancellation import cancel_job, retry_job
from ledger.jobs.transitions import advance, advance_job
from ledger.requests.cancellation import cancel_request
from ledger.states import JobState, Reason, RequestState
from ledger.tables import Job
from tests.fixtures.waiting import PATIENCE, await_that
from tests.ledger.conftest import nothing_written, statements


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


def test_who_polls_a_request_of_two_models_sees_every_event(world, monkeypatch):
    """Two jobs of it move at once; the one that has written its target's event first commits last."""
    request = world.submit(1, models=["small", "large"])
    slow, quick = (world.claim(target.job.id) for target in request.targets)
    fold, written, go_on = transitions.fold_requests, threading.Event(), threading.Event()

    def fold_slowly(session, ids):
        if threading.current_thread() is held:
            written.set()
            assert go_on.wait(PATIENCE)
        fold(session, ids)

    def poll(after):
        with world.sessions() as session:
            return list_request_events(session, tenant_id=world.tenant_id, request_id=request.id, after=after)

    (*_, last) = poll(0)
    monkeypatch.setattr(transitions, "fold_requests", fold_slowly)
    held = threading.Thread(target=world.verify, args=(slow,))
    with ThreadPoolExecutor(1) as other:
        held.start()
        assert written.wait(PATIENCE)
        done = other.submit(world.verify, quick)
        waits = "datname = current_database() AND wait_event_type = 'Lock'"
        await_that(lambda: done.done() or world.count("pg_stat_activity", waits), "the second to end or to wait")
        early = poll(last.id)
        go_on.set()
        held.join()
        done.result(PATIENCE)
    late = poll((early or [last])[-1].id)
    assert early + late == poll(last.id)
    assert [event.kind for event in late] == ["target.verifying", "target.verifying", "request.verifying"]


LOCKS = re.compile(r"SELECT .*? FROM (\w+) .*FOR NO KEY UPDATE|INSERT INTO (outbox) ")
ORDER = ["models", "jobs", "unlearn_requests", "targets", "outbox"]


def act(do, **which):
    def run(world):
        with world.sessions.begin() as session:
            do(session, tenant_id=world.tenant_id, **which)

    return run


@pytest.mark.parametrize(
    "what", ["verify", "publish", "fail", "requeue", "expire", "cancel", "retry", "withdraw", "claim"]
)
def test_every_move_locks_in_one_order(world, what):
    first, second = world.submit(1, models=None), world.submit(2, models=None)
    jobs = {target.model: target.job.id for target in first.targets}
    claims = {model: world.claim(job_id) for model, job_id in jobs.items() if (model, what) != ("small", "claim")}
    claim = claims.get("small")
    if what == "publish":
        world.verify(claim)
    elif what == "expire":
        for job_id in jobs.values():
            world.expire_lease(job_id)
    elif what == "retry":
        world.fail(claim, Reason.WORKLOAD_FAILED)
    elif what in ("cancel", "withdraw"):
        for each in claims.values():
            world.fail(each, Reason.OUT_OF_MEMORY, retry=True, first_wait=timedelta(hours=1))
    moves = {
        "verify": lambda: world.verify(claim),
        "publish": lambda: world.publish(claim),
        "fail": lambda: world.fail(claim, Reason.WORKLOAD_FAILED),
        "requeue": lambda: world.fail(claim, Reason.OUT_OF_MEMORY, retry=True),
        "expire": world.sweep,
        "cancel": lambda: act(cancel_job, job_id=jobs["small"])(world),
        "retry": lambda: act(retry_job, job_id=jobs["small"])(world),
        "withdraw": lambda: act(cancel_request, request_id=second.id)(world),
        "claim": lambda: world.claim(jobs["small"]),
    }
    with statements(world) as found:
        moves[what]()
    found = [re.sub(r"\s+", " ", statement) for statement in found]
    locked = [match[1] or match[2] for statement in found if (match := LOCKS.match(statement))]
    locked = [table for table in locked if table in ORDER]
    assert {"jobs", "unlearn_requests", "targets"} <= {*locked}
    order = list(dict.fromkeys(locked))
    assert order == sorted(order, key=ORDER.index)


def test_a_refused_write_comes_onto_the_timeline_under_the_jobs_lock(world):
    claim = world.submit_and_claim(1)
    world.expire_lease(claim.job_id)

    def note():
        with world.sessions.begin() as session:
            count_refused_write(session, claim.job_id, claim.attempt)

    with ThreadPoolExecutor(1) as other, world.sessions.begin() as session:
        session.get_one(Job, claim.job_id, with_for_update={"key_share": True})
        noted = other.submit(note)
        world.await_lock("the note to wait")
        session.commit()
        noted.result(PATIENCE)
    with world.sessions() as session:
        events = list_job_events(session, tenant_id=world.tenant_id, job_id=claim.job_id)
    assert events[-1].kind == "job.write_refused"
