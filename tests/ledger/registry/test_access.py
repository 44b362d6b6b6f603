from datetime import timedelta

import pytest
from sqlalchemy import text

from ledger.db import now
from ledger.errors import KeyRefused, UnknownKey, UnknownScope
from ledger.registry.access import Scope, authenticate, ensure_tenant, issue_key, list_keys, revoke_key
from ledger.tables import ApiKey


@pytest.fixture
def tenant_id(sessions):
    with sessions.begin() as session:
        return ensure_tenant(session, "hospital")


def issue(sessions, tenant_id, **changes):
    with sessions.begin() as session:
        return issue_key(session, **{"tenant_id": tenant_id, "name": "portal", "scopes": ["requests:write"]} | changes)


def test_a_key_tells_its_tenant_and_scopes(sessions, tenant_id):
    issued = issue(sessions, tenant_id)
    with sessions() as session:
        caller = authenticate(session, issued.secret)
    assert (caller.tenant_id, caller.key_id) == (tenant_id, issued.key.id)
    assert caller.may(Scope.REQUESTS_WRITE)
    assert not caller.may(Scope.REQUESTS_READ)


def test_admin_may_everything(sessions, tenant_id):
    issued = issue(sessions, tenant_id, scopes=[Scope.ADMIN])
    with sessions() as session:
        caller = authenticate(session, issued.secret)
    assert all(caller.may(scope) for scope in Scope)


def test_the_secret_is_stored_nowhere(sessions, tenant_id):
    secret = issue(sessions, tenant_id).secret.split("_", 2)[2]
    with sessions() as session:
        row = session.execute(text("SELECT api_keys::text FROM api_keys")).scalar_one()
    assert secret not in row


@pytest.mark.parametrize(
    "wrong",
    [
        "",
        "expunge",
        "expunge__",
        "a_b_c",
        "{key}x",
        "x{key}",
        "expunge_000000000000_x",
        "expunge_\x00_x",
        "expunge_é_\udc80",
    ],
)
def test_a_wrong_key_is_refused(sessions, tenant_id, wrong):
    issued = issue(sessions, tenant_id)
    with sessions() as session, pytest.raises(KeyRefused):
        authenticate(session, wrong.replace("{key}", issued.secret))


def test_a_key_with_another_keys_secret_is_refused(sessions, tenant_id):
    one, other = issue(sessions, tenant_id), issue(sessions, tenant_id)
    mixed = "_".join([*one.secret.split("_")[:2], other.secret.split("_", 2)[2]])
    with sessions() as session, pytest.raises(KeyRefused):
        authenticate(session, mixed)


def test_a_revoked_key_is_refused(sessions, tenant_id):
    issued = issue(sessions, tenant_id)
    with sessions.begin() as session:
        first = revoke_key(session, tenant_id=tenant_id, key_id=issued.key.id)
        assert revoke_key(session, tenant_id=tenant_id, key_id=issued.key.id) == first
    with sessions() as session, pytest.raises(KeyRefused):
        authenticate(session, issued.secret)


def test_an_expired_key_is_refused(sessions, tenant_id):
    with sessions() as session:
        moment = now(session)
    alive = issue(sessions, tenant_id, expires_at=moment + timedelta(hours=1))
    expired = issue(sessions, tenant_id, expires_at=moment)
    with sessions() as session:
        authenticate(session, alive.secret)
        with pytest.raises(KeyRefused):
            authenticate(session, expired.secret)


def test_scopes_are_a_closed_set(sessions, tenant_id):
    for scopes in ([], ["requests:delete"]):
        with pytest.raises(UnknownScope, match="requests:write"):
            issue(sessions, tenant_id, scopes=scopes)


def test_a_key_that_somebody_else_has_revoked_meanwhile_keeps_that_time(sessions, tenant_id):
    issued = issue(sessions, tenant_id)
    with sessions.begin() as session:
        held = session.get(ApiKey, issued.key.id)
        with sessions.begin() as other:
            first = revoke_key(other, tenant_id=tenant_id, key_id=issued.key.id)
        assert held.revoked_at is None
        assert revoke_key(session, tenant_id=tenant_id, key_id=issued.key.id) == first


def test_a_tenant_sees_and_revokes_only_its_own_keys(sessions, tenant_id):
    issued = issue(sessions, tenant_id)
    with sessions.begin() as session:
        other = ensure_tenant(session, "bank")
        assert list_keys(session, tenant_id=other) == []
        assert list_keys(session, tenant_id=tenant_id) == [issued.key]
        with pytest.raises(UnknownKey):
            revoke_key(session, tenant_id=other, key_id=issued.key.id)


def test_a_tenant_is_made_once(sessions, tenant_id):
    with sessions.begin() as session:
        assert ensure_tenant(session, "hospital") == tenant_id
