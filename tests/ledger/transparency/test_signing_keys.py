from concurrent.futures import ThreadPoolExecutor

import pytest

from ledger.errors import AlreadyRegistered, UnknownKey
from ledger.tables import SigningKey
from ledger.transparency.signing_keys import (
    list_signing_keys,
    register_signing_key,
    revoke_signing_key,
    usable_signing_keys,
)
from tests.fixtures.waiting import PATIENCE

FIRST, SECOND = "ab" * 32, "cd" * 32


@pytest.fixture
def session(sessions):
    with sessions.begin() as session:
        register_signing_key(session, key_id=FIRST, public_key="first")
        register_signing_key(session, key_id=SECOND, public_key="second")
        yield session


def test_the_newest_key_comes_first(session):
    assert usable_signing_keys(session) == [SECOND, FIRST]


def test_a_revoked_key_stays_listed_and_signs_no_more(session):
    revoked = revoke_signing_key(session, key_id=SECOND, reason="stolen")
    assert (revoked.revocation_reason, usable_signing_keys(session)) == ("stolen", [FIRST])
    assert [key.key_id for key in list_signing_keys(session)] == [SECOND, FIRST]
    assert revoke_signing_key(session, key_id=SECOND, reason="again") == revoked


def test_a_key_is_registered_once_and_an_unknown_one_not_revoked(session):
    with pytest.raises(AlreadyRegistered):
        register_signing_key(session, key_id=FIRST, public_key="first")
    with pytest.raises(UnknownKey):
        revoke_signing_key(session, key_id="00" * 32, reason="?")


def test_of_two_who_register_a_key_at_once_the_second_is_told_so(world):
    def register():
        with world.sessions.begin() as session:
            register_signing_key(session, key_id=FIRST, public_key="first")

    with ThreadPoolExecutor(1) as other, world.sessions.begin() as session:
        register_signing_key(session, key_id=FIRST, public_key="first")
        second = other.submit(register)
        world.await_lock("the second to wait")
        session.commit()
        with pytest.raises(AlreadyRegistered):
            second.result(PATIENCE)


def test_a_key_that_somebody_else_has_revoked_meanwhile_keeps_that_reason(sessions):
    with sessions.begin() as session:
        register_signing_key(session, key_id=FIRST, public_key="first")
    with sessions.begin() as session:
        held = session.get(SigningKey, FIRST)
        with sessions.begin() as other:
            first = revoke_signing_key(other, key_id=FIRST, reason="stolen")
        assert held.revoked_at is None
        assert revoke_signing_key(session, key_id=FIRST, reason="lost") == first
