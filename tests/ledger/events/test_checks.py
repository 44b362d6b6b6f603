"""Checks that a connected system asks for."""

from datetime import timedelta

import pytest
from sqlalchemy import text

from ledger.db import now
from ledger.errors import MessageExpired, MessageRepeated
from ledger.events.checks import TOLERANCE, delete_expired_messages, request_check, take_requested_checks
from tests.ledger.events.test_hand_overs import handed, plan, succeed, take  # noqa: F401


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
def test_what_a_message_is_about_is_checked_at_once_and_once(handed, model):  # noqa: F811
    ask(handed, model=model)
    assert take(handed) is None
    poll(handed)
    checked = take(handed)
    assert (checked.model, checked.state) == ("small", "delivered")
    succeed(handed, checked)
    poll(handed)
    assert take(handed) is None


@pytest.mark.parametrize("change", [{"model": "large"}, {"connector": "another"}])
def test_what_a_message_is_not_about_is_not(handed, change):  # noqa: F811
    ask(handed, **change)
    poll(handed)
    assert take(handed) is None


def test_a_message_waits_while_a_try_is_under_way_that_may_have_looked_before(handed):  # noqa: F811
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


def test_a_replay_is_refused_and_changes_nothing(handed):  # noqa: F811
    ask(handed)
    with pytest.raises(MessageRepeated):
        ask(handed, model=None)
    ask(handed, connector="another")
    assert handed.count("requested_checks") == 2


@pytest.mark.parametrize("age", [TOLERANCE + timedelta(seconds=5), -TOLERANCE - timedelta(minutes=2)])
def test_a_message_that_was_kept_back_or_is_from_the_future_is_refused(handed, age):  # noqa: F811
    with pytest.raises(MessageExpired):
        ask(handed, age=age)
    assert handed.count("requested_checks") == 0


def test_a_message_is_remembered_for_longer_than_it_could_be_replayed(handed):  # noqa: F811
    ask(handed)
    for age, kept in ((2 * TOLERANCE, 1), (timedelta(hours=2), 0)):
        with handed.sessions.begin() as session:
            session.execute(
                text("UPDATE requested_checks SET received_at = now() - CAST(:age AS interval)"), {"age": age}
            )
            delete_expired_messages(session)
        assert handed.count("requested_checks") == kept
