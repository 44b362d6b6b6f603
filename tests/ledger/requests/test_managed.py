"""Requests from request managers, in the ledger."""

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import text

from ledger.errors import IdempotencyMismatch, InvalidTime, NoSubjects, TooLate, UnknownRequest
from ledger.registry.subjects import assign_subjects
from ledger.requests.deadlines import extend_deadline
from ledger.requests.managed import (
    Received,
    cancel_managed,
    get_managed,
    list_results,
    record_reported,
    submit_managed,
    take_changes,
)
from ledger.requests.submission import submit
from ledger.sample_ids import subject_digest
from ledger.states import ManagedState, Reason
from ledger.tables import ManagedRequest
from tests.ledger.conftest import KEY, digests

WAITS, WORKS, DONE, WITHDRAWN = ManagedState


@pytest.fixture
def people(world):
    """The world, in which the dataset knows whose sample 1 is."""
    with world.sessions.begin() as session:
        rows = [(subject_digest(KEY, "ann"), digest, 1) for digest in digests(1)]
        assign_subjects(session, tenant_id=world.tenant_id, dataset="digits", rows=rows)
    return world


def send(
    world,
    sample=1,
    *,
    quiet=timedelta(),
    body="0" * 64,
    received_at=datetime(2026, 1, 31, tzinfo=UTC),
    reference="1",
    reply=None,
):
    """Send a request for a sample as the manager `portal`; nobody knows a sample from 100 on."""
    received = Received(
        manager="portal",
        reference=reference,
        body_sha256=body,
        regulation="gdpr",
        received_at=received_at,
        reply=reply,
    )
    with world.sessions.begin() as session:

        def record():
            return submit(session, world.submission(sample, received_at=received_at), window=timedelta())

        return submit_managed(session, received, record, tenant_id=world.tenant_id, quiet=quiet)


def find(world, reference="1"):
    with world.sessions() as session:
        return get_managed(session, tenant_id=world.tenant_id, manager="portal", reference=reference)


def cancel(world, reference="1"):
    with world.sessions.begin() as session:
        return cancel_managed(session, tenant_id=world.tenant_id, manager="portal", reference=reference)


def changes(world):
    with world.sessions.begin() as session:
        return [(one.reference, one.state) for one in take_changes(session, "portal")]


def only(world, column):
    with world.sessions() as session:
        return session.scalar(text(f"SELECT {column} FROM targets"))


def test_of_two_simultaneous_calls_one_records_the_request(people):
    with ThreadPoolExecutor(4) as threads:
        found = [*threads.map(lambda _: send(people), range(8))]
    assert len({one.received_at for one in found}) == 1
    assert (people.count("managed_requests"), people.count("unlearn_requests")) == (1, 1)


def test_a_reply_that_came_while_the_last_ones_result_was_sent_is_kept(people):
    send(people, 100, reply=b"first")
    with people.sessions.begin() as session:
        (due,) = list_results(session, "portal")
        held = session.get(ManagedRequest, (people.tenant_id, "portal", "1"))
        send(people, 100, reply=b"second")
        assert held.reply == b"first"
        record_reported(session, due, "portal")
    with people.sessions() as session:
        assert [one.reply for one in list_results(session, "portal")] == [b"second"]


def test_another_body_under_the_same_reference_is_refused_and_another_reference_is_not(people):
    send(people)
    with pytest.raises(IdempotencyMismatch):
        send(people, body="1" * 64)
    send(people, reference="2")
    assert people.count("managed_requests") == 2


def test_what_cannot_be_recorded_leaves_nothing(people):
    with pytest.raises(InvalidTime):
        send(people, received_at=datetime(2099, 1, 1, tzinfo=UTC))
    with people.sessions.begin() as session:
        session.execute(text("UPDATE datasets SET subject_count = 0"))
    with pytest.raises(NoSubjects):
        send(people)
    assert people.count("managed_requests") == 0
    with pytest.raises(UnknownRequest):
        find(people)


def test_a_job_that_is_tried_again_does_not_go_back_to_pending(people):
    send(people)
    claim = people.claim(only(people, "job_id"))
    assert changes(people) == [("1", WORKS)]
    people.fail(claim, Reason.UNEXPECTED, retry=True, max_tries=3)
    assert find(people).state == WORKS
    assert changes(people) == []


def test_a_change_is_taken_once(people):
    send(people)
    send(people, sample=100, reference="2")
    assert changes(people) == [("1", WAITS), ("2", DONE)]
    assert changes(people) == []
    people.finish(people.claim(only(people, "job_id")))
    assert changes(people) == [("1", DONE)]


def test_an_extension_moves_the_deadline_that_is_shown(people):
    assert send(people).due_at == datetime(2026, 2, 28, tzinfo=UTC)
    with people.sessions.begin() as session:
        session.execute(text("UPDATE unlearn_requests SET due_at = clock_timestamp() + interval '1 day'"))
        extend_deadline(
            session, tenant_id=people.tenant_id, request_id=only(people, "request_id"), reason="five models"
        )
    assert find(people).due_at == datetime(2026, 4, 30, tzinfo=UTC)


def test_in_the_quiet_time_the_refusal_of_a_cancellation_does_not_say_why(people):
    send(people, quiet=timedelta(hours=1))
    send(people, sample=100, reference="2", quiet=timedelta(hours=1))
    people.finish(people.claim(only(people, "job_id")))
    assert (find(people).state, find(people, "2").state) == (WAITS, WAITS)
    with pytest.raises(TooLate, match="can no longer be cancelled") as refused:
        cancel(people)
    assert "completed" not in str(refused.value)
    assert cancel(people, "2").state == cancel(people, "2").state == WITHDRAWN
