"""What is due at a connected system, and what is recorded of it."""

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from random import Random

import pytest
from sqlalchemy import text, update

from ledger import metrics
from ledger.db import now
from ledger.errors import MessageExpired, MessageRepeated
from ledger.events import hand_overs
from ledger.events.hand_overs import (
    TOLERANCE,
    delete_expired_messages,
    plan_hand_overs,
    record_failure,
    record_success,
    request_check,
    retire_hand_overs,
    take_hand_over,
    take_requested_checks,
)
from ledger.events.timeline import list_model_events
from ledger.jobs.approvals import set_approvals
from ledger.registry.retention import mark_purged
from ledger.states import HandOverState, Verdict
from ledger.tables import HandOver, ModelVersion
from tests.fixtures.waiting import PATIENCE

SMALL = {"connector": "triton", "tenant": "hospital", "concerns": lambda model: model == "small", "withdraws": False}


def plan(world, **changes):
    with world.sessions.begin() as session:
        plan_hand_overs(session, **SMALL | changes)


def take(world, connector="triton"):
    with world.sessions.begin() as session:
        return take_hand_over(session, connector)


def succeed(world, taken, **more):
    with world.sessions.begin() as session:
        record_success(session, taken, **more)


def fail(world, taken, why="it is down."):
    with world.sessions.begin() as session:
        record_failure(session, taken, why=why, random=Random(1))


def make_due(world):
    """Let the next try of everything be now."""
    with world.sessions.begin() as session:
        session.execute(update(HandOver).where(HandOver.next_try_at.is_not(None)).values(next_try_at=text("now()")))


def states(world):
    with world.sessions() as session:
        rows = session.execute(
            text("SELECT number, state FROM hand_overs h JOIN model_versions v ON v.id = version_id")
        )
        return sorted((number, state) for number, state in rows)


def kinds(world):
    with world.sessions() as session:
        events = list_model_events(session, tenant_id=world.tenant_id, model="small")
        return [event.kind for event in events if event.kind.startswith("version.")]


def test_a_connector_for_a_tenant_that_is_not_there_says_so_in_the_log_once(world, caplog):
    for _ in range(2):
        plan(world, connector="abroad", tenant="hosptial")

    assert [record.levelname for record in caplog.records] == ["ERROR"]
    assert all(word in caplog.text for word in ("abroad", "'hosptial'", "EXPUNGE_CONNECTORS"))
    assert states(world) == []


@pytest.fixture
def handed(world):
    """The first version of `small` is at the system."""
    plan(world)
    succeed(world, take(world), place="models/small/1")
    return world


def test_the_served_version_of_each_model_that_it_concerns_is_handed_over_once(world):
    plan(world)
    plan(world)
    taken = take(world)
    assert (taken.model, taken.version, taken.state, taken.tenant) == ("small", 1, HandOverState.PENDING, "hospital")
    assert (taken.predecessor, taken.verdict, taken.samples, taken.weights_path) == (None, None, 0, "first.safetensors")
    assert take(world) is None  # nobody else gets it meanwhile
    succeed(world, taken, place="models/small/1")
    plan(world)
    assert take(world) is None
    assert states(world) == [(1, "delivered")]
    assert kinds(world) == ["version.handed_over"]


def test_a_published_version_follows_with_what_its_audit_found(handed):
    handed.finish(handed.submit_and_claim(1, 2))
    plan(handed)
    taken = take(handed)
    assert (taken.version, taken.predecessor, taken.samples, taken.verdict) == (2, 1, 2, Verdict.VERIFIED)
    assert taken.report_id is not None
    assert taken.knowing == {1}
    assert states(handed) == [(1, "superseded"), (2, "pending")]


def test_a_failed_try_is_made_again_later_and_later_but_never_given_up(world):
    plan(world)
    waits = []
    for _ in range(6):
        make_due(world)
        fail(world, take(world))
        with world.sessions() as session:
            waits.append(session.scalar(text("SELECT next_try_at - now() FROM hand_overs")))
        assert take(world) is None
    minutes = timedelta(minutes=1)
    assert waits[0] < minutes < waits[1] < 10 * minutes < waits[2] <= hand_overs.MAX_WAIT
    assert waits[5] > 14 * minutes
    with world.sessions() as session:
        assert session.scalar(text("SELECT detail FROM hand_overs")) == "it is down."
        assert metrics.hand_over_backlog(session)["triton"].waiting == 1
    make_due(world)
    succeed(world, take(world))
    assert states(world) == [(1, "delivered")]
    with world.sessions() as session:
        assert metrics.hand_over_backlog(session)["triton"] == metrics.Backlog(waiting=0, oldest=None)


def test_a_system_that_has_lost_the_version_gets_it_again_at_once(handed):
    make_due(handed)
    checked = take(handed)
    assert (checked.state, checked.place) == (HandOverState.DELIVERED, "models/small/1")
    fail(handed, checked, "it serves version 7.")
    again = take(handed)
    assert again.state == HandOverState.PENDING
    succeed(handed, again)
    assert kinds(handed) == ["version.handed_over", "version.missed", "version.handed_over"]
    with handed.sessions() as session:
        assert metrics.read_tallies(session, hand_overs.MISSED) == {"triton": 1}


@pytest.mark.parametrize("what", ["version.handed_over", "version.missed"])
def test_what_comes_onto_the_models_timeline_waits_for_what_is_being_written_there(world, what):
    """Otherwise who polls with `after` would miss the event that was numbered first and committed last."""
    plan(world)
    taken = take(world)
    if what == "version.missed":
        succeed(world, taken)
        make_due(world)
        taken = take(world)
    with ThreadPoolExecutor(1) as other, world.sessions.begin() as session:
        set_approvals(session, tenant_id=world.tenant_id, model="small", versions=True, by="key:admin")
        noted = other.submit(fail if what == "version.missed" else succeed, world, taken)
        world.await_lock("the note to wait")
        session.commit()
        noted.result(PATIENCE)
    with world.sessions() as session:
        events = list_model_events(session, tenant_id=world.tenant_id, model="small")
    assert [event.kind for event in events][-2:] == ["model.approvals", what]


def test_a_try_that_ends_after_another_version_was_promoted_changes_nothing_but_is_remembered(world):
    plan(world)
    slow = take(world)
    world.finish(world.submit_and_claim(1))
    plan(world)
    succeed(world, slow)
    assert states(world) == [(1, "superseded"), (2, "pending")]
    with world.sessions() as session:  # the system has the weights: they are to be found when copies are deleted
        assert session.scalar(text("SELECT delivered_at IS NOT NULL FROM hand_overs WHERE state = 'superseded'"))
    fail(world, slow)
    assert states(world) == [(1, "superseded"), (2, "pending")]


def test_a_beat_that_died_leaves_its_hand_over_to_another_one(world):
    plan(world)
    lost = take(world)
    make_due(world)
    taken = take(world)
    assert taken.id == lost.id
    fail(world, lost)  # it was only asleep: the row is the other's now
    succeed(world, taken)
    assert states(world) == [(1, "delivered")]


def test_a_version_that_the_system_never_took_is_late_since_then_even_if_a_newer_one_follows(world):
    plan(world)
    with world.sessions() as session:
        first = metrics.hand_over_backlog(session)["triton"].oldest
    world.finish(world.submit_and_claim(1))
    plan(world)
    with world.sessions() as session:
        assert metrics.hand_over_backlog(session)["triton"] == metrics.Backlog(waiting=1, oldest=first)


def test_a_purged_version_is_withdrawn_where_the_system_can_delete(handed):
    handed.finish(handed.submit_and_claim(1))
    plan(handed)
    succeed(handed, take(handed))
    with handed.sessions.begin() as session:
        old = session.scalars(text("SELECT id FROM model_versions WHERE number = 1 AND knows_erased")).all()
        mark_purged(session, old, older_than=timedelta(0))
    plan(handed)
    assert states(handed) == [(1, "superseded"), (2, "delivered")]
    plan(handed, withdraws=True)
    taken = take(handed)
    assert (taken.version, taken.state, taken.place) == (1, HandOverState.WITHDRAWING, "models/small/1")
    fail(handed, taken)
    make_due(handed)
    while (taken := take(handed)).version != 1:
        succeed(handed, taken)
    succeed(handed, taken)
    plan(handed, withdraws=True)
    assert states(handed) == [(1, "withdrawn"), (2, "delivered")]


def test_what_is_no_longer_configured_is_owed_nothing(world):
    plan(world)
    plan(world, connector="mlserver")
    with world.sessions.begin() as session:
        retire_hand_overs(session, keep=["mlserver"])
    assert take(world) is None
    assert take(world, "mlserver") is not None
    plan(world)
    plan(world, concerns=lambda model: False)
    assert take(world) is None
    with world.sessions() as session:
        assert session.query(ModelVersion).count() == 2


def test_what_was_put_off_before_the_clock_stepped_back_is_due(world):
    plan(world)
    for _ in range(2):
        with world.sessions.begin() as session:
            session.execute(text("UPDATE hand_overs SET next_try_at = next_try_at + interval '1 day'"))
        taken = take(world)
        assert taken.version == 1
        assert take(world) is None
        succeed(world, taken)


def ask(world, delivery="one", *, model="small", age=timedelta(0), connector="triton"):
    with world.sessions.begin() as session:
        sent_at = now(session) - age
        request_check(session, connector=connector, delivery_id=delivery, sent_at=sent_at, model=model)


def poll(world):
    with world.sessions.begin() as session:
        take_requested_checks(session, "triton")


def waiting(world):
    return world.count("requested_checks", "taken_at IS NULL")


@pytest.mark.parametrize("model", ["small", None])
def test_what_a_message_is_about_is_checked_at_once_and_once(handed, model):
    ask(handed, model=model)
    assert take(handed) is None
    poll(handed)
    checked = take(handed)
    assert (checked.model, checked.state) == ("small", "delivered")
    succeed(handed, checked)
    poll(handed)
    assert take(handed) is None


@pytest.mark.parametrize("change", [{"model": "large"}, {"connector": "another"}])
def test_what_a_message_is_not_about_is_not(handed, change):
    ask(handed, **change)
    poll(handed)
    assert take(handed) is None


def test_a_message_waits_while_a_try_is_under_way_that_may_have_looked_before(handed):
    ask(handed)
    poll(handed)
    under_way = take(handed)
    ask(handed, "two")
    ask(handed, "three", model=None)
    poll(handed)
    assert (take(handed), waiting(handed)) == (None, 2)
    succeed(handed, under_way)
    poll(handed)
    assert (take(handed).model, waiting(handed)) == ("small", 0)


def test_a_version_that_is_still_to_be_handed_over_is_not_hurried(world):
    plan(world)
    ask(world)
    poll(world)
    assert (take(world).state, waiting(world)) == ("pending", 0)


def test_a_replay_is_refused_and_changes_nothing(handed):
    ask(handed)
    with pytest.raises(MessageRepeated):
        ask(handed, model=None)
    ask(handed, connector="another")
    assert handed.count("requested_checks") == 2


@pytest.mark.parametrize("age", [TOLERANCE + timedelta(seconds=5), -TOLERANCE - timedelta(minutes=2)])
def test_a_message_that_was_kept_back_or_is_from_the_future_is_refused(handed, age):
    with pytest.raises(MessageExpired):
        ask(handed, age=age)
    assert handed.count("requested_checks") == 0


def test_a_message_is_remembered_for_longer_than_it_could_be_replayed(handed):
    ask(handed)
    for age, kept in ((2 * TOLERANCE, 1), (timedelta(hours=2), 0)):
        with handed.sessions.begin() as session:
            session.execute(
                text("UPDATE requested_checks SET received_at = now() - CAST(:age AS interval)"), {"age": age}
            )
            delete_expired_messages(session)
        assert handed.count("requested_checks") == kept
