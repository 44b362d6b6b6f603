"""Tenants and API keys, made by the operator."""

from expunge.database import opened
from ledger.access import Scope, ensure_tenant, issue_key, list_keys

FIRST_TENANT = "default"


def first_key(database_url: str) -> str | None:
    """Make the first tenant's first key and give its secret; None where there is a key already, whose secret nobody has."""
    with opened(database_url) as sessions, sessions.begin() as session:
        tenant_id = ensure_tenant(session, FIRST_TENANT)
        if list_keys(session, tenant_id=tenant_id):
            return None
        return issue_key(session, tenant_id=tenant_id, name="first", scopes=[Scope.ADMIN]).secret


def make_key(database_url: str, *, tenant: str, name: str) -> str:
    """Make a key that is good for everything of the tenant's, and give its secret."""
    with opened(database_url) as sessions, sessions.begin() as session:
        tenant_id = ensure_tenant(session, tenant)
        return issue_key(session, tenant_id=tenant_id, name=name, scopes=[Scope.ADMIN]).secret
