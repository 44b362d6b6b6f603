"""Tenants and API keys, made by the operator."""

from collections.abc import Collection
from pathlib import Path

from expunge.errors import KeyCommandRefused
from expunge.operator.registration import opened
from ledger.errors import UnknownScope
from ledger.registry.access import KeyView, Scope, ensure_tenant, issue_key, list_keys, revoke_key
from ledger.transparency.signing_keys import SigningKeyView, list_signing_keys, register_signing_key, revoke_signing_key
from worker.signing import discard_key, make_key

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


def new_signing_key(database_url: str, folder: Path) -> SigningKeyView:
    """Make a key; from now on the worker signs with it. The earlier keys stay good for what they have signed."""
    made = make_key(folder)
    try:
        with opened(database_url) as sessions, sessions.begin() as session:
            return register_signing_key(session, key_id=made.key_id, public_key=made.public_key)
    except BaseException:
        discard_key(folder, made.key_id)
        raise


def first_signing_key(database_url: str, folder: Path) -> None:
    """Make a key where the ledger has none that is usable and in the folder."""
    with opened(database_url) as sessions, sessions.begin() as session:
        good = {key.key_id for key in list_signing_keys(session) if key.revoked_at is None}
    if not good & {path.stem for path in folder.glob("*.pem")}:
        new_signing_key(database_url, folder)


def signing_keys(database_url: str) -> list[SigningKeyView]:
    """All signing keys, newest first."""
    with opened(database_url) as sessions, sessions.begin() as session:
        return list_signing_keys(session)


def stop_signing_key(database_url: str, folder: Path, *, prefix: str, reason: str) -> SigningKeyView:
    """Revoke the key whose id begins so, and delete its private half where it is. Raises KeyCommandRefused."""
    with opened(database_url) as sessions, sessions.begin() as session:
        found = [key for key in list_signing_keys(session) if key.key_id.startswith(prefix)]
        if len(found) != 1:
            known = (
                f"{len(found)} signing keys begin with {prefix!r}" if found else f"there is no signing key {prefix!r}"
            )
            raise KeyCommandRefused(f"Nothing was revoked: {known}; see `expunge signing-keys list`.")
        revoked = revoke_signing_key(session, key_id=found[0].key_id, reason=reason)
    discard_key(folder, revoked.key_id)
    return revoked
