import threading
from datetime import timedelta

import pytest
from sqlalchemy import text

from ledger.errors import IdempotencyInProgress, IdempotencyMismatch, NoSamplesMatch
from ledger.requests.idempotency import Idempotency
from ledger.requests.submission import submit
from tests.ledger.conftest import nothing_written
from worker.cleanup import delete_expired_rows


def key(world, body="00" * 32, caller="portal"):
    """The same idempotency key each time. body: the SHA-256 of what it is sent with."""
    return Idempotency(tenant_id=world.tenant_id, caller=caller, key="8e03978e", body_sha256=body)


def test_the_same_key_and_body_give_the_same_request_and_write_nothing(world):
    first = world.submit(1, idempotency=key(world))
    with nothing_written(world):
        assert world.submit(1, idempotency=key(world)).id == first.id


def test_the_same_key_with_another_body_is_refused(world):
    world.submit(1, idempotency=key(world))
    with nothing_written(world), pytest.raises(IdempotencyMismatch):
        world.submit(2, idempotency=key(world, body="11" * 32))


def test_a_key_is_its_callers_own(world):
    first = world.submit(1, idempotency=key(world))
    other = world.submit(1, caller="somebody else", idempotency=key(world, caller="somebody else"))
    assert other.id != first.id


def test_while_the_first_is_running_the_second_is_refused(world):
    with world.sessions.begin() as session:
        submit(session, world.submission(1), window=timedelta(0), idempotency=key(world))
        with pytest.raises(IdempotencyInProgress):
            world.submit(1, idempotency=key(world))
    assert world.count("unlearn_requests") == 1


def test_a_refused_first_use_leaves_the_key_free(world):
    with pytest.raises(NoSamplesMatch):
        world.submit(500, idempotency=key(world))
    world.submit(2, idempotency=key(world, body="11" * 32))


def test_of_many_at_once_one_is_recorded(world):
    answers = []
    ready = threading.Barrier(8)

    def send():
        ready.wait()
        try:
            answers.append(world.submit(1, idempotency=key(world)).id)
        except IdempotencyInProgress:
            answers.append(None)

    threads = [threading.Thread(target=send) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(answers) == 8
    assert len({answer for answer in answers if answer}) == world.count("unlearn_requests") == 1


def test_a_key_is_kept_for_thirty_days(world):
    first = world.submit(1, idempotency=key(world))
    age(world, "29 days")
    delete_expired_rows(world.sessions)
    assert world.submit(1, idempotency=key(world)).id == first.id
    age(world, "2 days")
    assert world.submit(1, idempotency=key(world, body="22" * 32)).id != first.id
    age(world, "31 days")
    delete_expired_rows(world.sessions)
    assert world.count("idempotency_keys") == 0


def age(world, by):
    with world.sessions.begin() as session:
        session.execute(text(f"UPDATE idempotency_keys SET created_at = created_at - interval '{by}'"))
