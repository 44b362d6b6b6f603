from datetime import timedelta

from sqlalchemy import text

from ledger.events.outbox import announce_wakeup, delete_sent_wakeups, take_wakeups
from ledger.jobs import cancellation
from ledger.states import Reason
from tests.ledger.conftest import IEU


def take(world, **more):
    with world.sessions.begin() as session:
        return take_wakeups(session, **more)


def settle(world, taken):
    with world.sessions.begin() as session:
        delete_sent_wakeups(session, taken)


def woken(world):
    """The jobs whose wake-ups are due, sent and struck out."""
    taken = take(world)
    settle(world, taken)
    return [wakeup.job_id for wakeup in taken]


def let_hold_pass(world):
    with world.sessions.begin() as session:
        session.execute(text("UPDATE outbox SET available_at = clock_timestamp()"))


def test_a_request_announces_its_job_in_its_own_transaction(world):
    job_id = world.submit(1).targets[0].job.id
    assert woken(world) == [job_id]
    assert world.count("outbox") == 0


def test_what_was_rolled_back_announces_nothing(world):
    session = world.sessions()
    announce_wakeup(session, world.submit(1).targets[0].job.id)
    session.rollback()
    session.close()
    assert len(woken(world)) == 1


def test_a_job_with_a_window_is_woken_when_it_closes_and_earlier_once_it_is_expedited(world):
    job_id = world.submit(1, window=timedelta(hours=1)).targets[0].job.id
    assert take(world) == []
    world.submit(2, expedite=True)
    assert woken(world) == [job_id]


def test_a_job_closed_by_another_method_is_woken_with_the_one_that_follows(world):
    first = world.submit(1, window=timedelta(hours=1)).targets[0].job.id
    second = world.submit(2, method=IEU).targets[0].job.id
    assert sorted(woken(world)) == sorted([first, second])


def test_many_requests_for_one_job_are_one_wakeup(world):
    for number in range(5):
        world.submit(number)
    assert len(take(world)) == 1


def test_what_one_has_taken_no_other_gets_until_it_is_held_no_more(world):
    world.submit(1)
    taken = take(world)
    assert len(taken) == 1
    assert take(world) == []
    let_hold_pass(world)
    assert [again.job_id for again in take(world)] == [taken[0].job_id]


def test_a_transaction_that_is_still_taking_is_not_waited_for(world):
    world.submit(1)
    with world.sessions.begin() as session:
        assert len(take_wakeups(session)) == 1
        assert take(world) == []


def test_a_wakeup_announced_again_after_it_was_taken_is_not_struck_out_with_it(world):
    job_id = world.submit(1).targets[0].job.id
    taken = take(world)
    with world.sessions.begin() as session:
        announce_wakeup(session, job_id)
    settle(world, taken)
    assert woken(world) == [job_id]


def test_a_model_that_becomes_free_wakes_its_next_job(world):
    claim = world.submit_and_claim(1)
    waiting = world.submit(2).targets[0].job.id
    woken(world)
    world.finish(claim)
    assert woken(world) == [waiting]


def test_a_job_that_goes_back_to_the_queue_is_woken_again(world):
    claim = world.submit_and_claim(1)
    woken(world)
    world.expire_lease(claim.job_id)
    world.sweep()
    assert woken(world) == [claim.job_id]
    world.fail(world.claim(claim.job_id), Reason.UNEXPECTED)
    assert woken(world) == []
    with world.sessions.begin() as session:
        cancellation.retry_job(session, tenant_id=world.tenant_id, job_id=claim.job_id)
    assert woken(world) == [claim.job_id]


def test_only_the_jobs_asked_for_are_taken(world):
    small = world.submit(1, models=["small"]).targets[0].job.id
    large = world.submit(1, models=["large"]).targets[0].job.id
    assert [wakeup.job_id for wakeup in take(world, job_ids=[large])] == [large]
    assert woken(world) == [small]


def test_what_is_being_announced_is_left_when_it_is_settled_and_not_waited_for(world):
    job_id = world.submit(1).targets[0].job.id
    taken = take(world)
    with world.sessions.begin() as session:
        announce_wakeup(session, job_id)
        settle(world, taken)  # would wait here for ever
    assert woken(world) == [job_id]


def test_settling_deletes_what_was_sent_and_nothing_else(world):
    small = world.submit(1, models=["small"]).targets[0].job.id
    large = world.submit(1, models=["large"]).targets[0].job.id
    first = take(world, job_ids=[small])
    settle(world, first)
    settle(world, [])
    assert world.count("outbox") == 1
    assert woken(world) == [large]
