from datetime import timedelta

from sqlalchemy import text

from ledger.db import now
from ledger.jobs.workers import (
    STORAGE,
    WORKER,
    record_heartbeat,
    storage_room,
    was_seen_within,
    worker_last_seen,
)


def record_once(world):
    with world.sessions.begin() as session:
        record_heartbeat(session, WORKER)


def seen(world):
    with world.sessions() as session:
        return worker_last_seen(session)


def test_before_the_first_heartbeat_no_worker_has_been_seen(world):
    assert seen(world) is None


def test_a_heartbeat_is_a_sign_of_life_and_the_last_one_counts(world):
    record_once(world)
    first = seen(world)
    record_once(world)

    assert first < seen(world)
    assert world.count("heartbeats") == 1


def test_a_worker_that_holds_a_lease_is_seen_now_though_it_has_no_heartbeat(world):
    record_once(world)
    with world.sessions.begin() as session:
        session.execute(text("UPDATE heartbeats SET at = at - interval '1 hour'"))
    claim = world.submit_and_claim(1)
    with world.sessions() as session:
        assert worker_last_seen(session) <= now(session)
    assert (now_of(world) - seen(world)).total_seconds() < 60

    world.expire_lease(claim.job_id)
    assert (now_of(world) - seen(world)).total_seconds() > 3000


def test_what_was_a_moment_ago_was_within_a_minute_and_what_was_an_hour_ago_was_not(world):
    def recent():
        with world.sessions() as session:
            return was_seen_within(session, WORKER, timedelta(minutes=1))

    assert not recent()
    record_once(world)
    assert recent()
    with world.sessions.begin() as session:
        session.execute(text("UPDATE heartbeats SET at = at - interval '1 hour'"))
    assert not recent()


def now_of(world):
    with world.sessions() as session:
        return now(session)


def test_the_room_in_the_storage_is_the_last_one_measured_and_unknown_once_it_is_old(world):
    def room():
        with world.sessions() as session:
            return storage_room(session)

    assert room() is None
    for free in (9, 7):
        with world.sessions.begin() as session:
            record_heartbeat(session, STORAGE, {"free": free, "size": 10})
    assert room() == (7, 10)
    with world.sessions.begin() as session:
        session.execute(text("UPDATE heartbeats SET at = at - interval '2 hours'"))
    assert room() is None
