"""Tenants and API keys, made by the operator."""

from collections.abc import Collection

from expunge.database import opened
from expunge.errors import KeyCommandRefused
from ledger.access import KeyView, Scope, ensure_tenant, issue_key, list_keys, revoke_key
from ledger.errors import UnknownScope

FIRST_TENANT = "default"

CALLERS_SCOPES = tuple(scope.value for scope in Scope if scope is not Scope.ADMIN)
"""What a new key may do unless the operator says otherwise."""


def first_key(database_url: str) -> str | None:
    """Make the first tenant's first key and give its secret; None where there is a key already, whose secret nobody has."""
    with opened(database_url) as sessions, sessions.begin() as session:
        tenant_id = ensure_tenant(session, FIRST_TENANT)
        if list_keys(session, tenant_id=tenant_id):
            return None
        return issue_key(session, tenant_id=tenant_id, name="first", scopes=[Scope.ADMIN]).secret


def make_api_key(database_url: str, *, tenant: str, name: str, scopes: Collection[str]) -> str:
    """Make a key with these scopes and give its secret. Raises KeyCommandRefused for one that does not exist."""
    with opened(database_url) as sessions, sessions.begin() as session:
        tenant_id = ensure_tenant(session, tenant)
        try:
            return issue_key(session, tenant_id=tenant_id, name=name, scopes=scopes).secret
        except UnknownScope as error:
            raise KeyCommandRefused(str(error)) from error


def tenant_keys(database_url: str, *, tenant: str) -> list[KeyView]:
    """All keys of a tenant, oldest first, without their secrets."""
    with opened(database_url) as sessions, sessions.begin() as session:
        return list_keys(session, tenant_id=ensure_tenant(session, tenant))


def stop_key(database_url: str, *, tenant: str, prefix: str) -> None:
    """Make the key with this prefix useless from now on; again does nothing. Raises KeyCommandRefused for an unknown one."""
    with opened(database_url) as sessions, sessions.begin() as session:
        tenant_id = ensure_tenant(session, tenant)
        key = next((key for key in list_keys(session, tenant_id=tenant_id) if key.prefix == prefix), None)
        if key is None:
            raise KeyCommandRefused(f"The tenant {tenant!r} has no key {prefix!r}; see `expunge keys list`.")
        revoke_key(session, tenant_id=tenant_id, key_id=key.id)
