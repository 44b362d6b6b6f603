"""Create, list and revoke API keys and signing keys."""

from collections.abc import Collection
from pathlib import Path

from expunge.errors import KeyCommandRefused
from expunge.operator.deployment import open_database
from ledger import resources
from ledger.errors import UnknownScope
from ledger.registry import access
from ledger.registry.access import KeyView, Scope
from ledger.transparency import signing_keys
from worker.signing import discard_key, make_key

FIRST_TENANT = "default"

DEFAULT_SCOPES = tuple(scope.value for scope in Scope if scope not in (Scope.ADMIN, Scope.WEIGHTS_READ))
"""The scopes of a new key if the operator names none."""


def ensure_first_api_key(database_url: str) -> str | None:
    """Create the first tenant's first API key and return its secret; return None if the tenant has a key."""
    with open_database(database_url) as sessions, sessions.begin() as session:
        tenant_id = access.ensure_tenant(session, FIRST_TENANT)
        if access.list_keys(session, tenant_id=tenant_id):
            return None
        return access.issue_key(session, tenant_id=tenant_id, name="first", scopes=[Scope.ADMIN]).secret


def create_api_key(database_url: str, *, tenant: str, name: str, scopes: Collection[str]) -> str:
    """Create an API key with these scopes and return its secret. Raises KeyCommandRefused for an unknown scope."""
    with open_database(database_url) as sessions, sessions.begin() as session:
        tenant_id = access.ensure_tenant(session, tenant)
        try:
            return access.issue_key(session, tenant_id=tenant_id, name=name, scopes=scopes).secret
        except UnknownScope as error:
            raise KeyCommandRefused(str(error)) from error


def list_api_keys(database_url: str, *, tenant: str) -> list[KeyView]:
    """List a tenant's API keys, oldest first, without their secrets."""
    with open_database(database_url) as sessions, sessions.begin() as session:
        return access.list_keys(session, tenant_id=access.ensure_tenant(session, tenant))


def revoke_api_key(database_url: str, *, tenant: str, prefix: str) -> None:
    """Revoke the API key with this prefix; do nothing if it is revoked. Raises KeyCommandRefused for an unknown prefix."""
    with open_database(database_url) as sessions, sessions.begin() as session:
        tenant_id = access.ensure_tenant(session, tenant)
        keys = access.list_keys(session, tenant_id=tenant_id)
        key = next((key for key in keys if key.prefix == prefix), None)
        if key is None:
            raise KeyCommandRefused(f"The tenant {tenant!r} has no key {prefix!r}; see `expunge keys list`.")
        access.revoke_key(session, tenant_id=tenant_id, key_id=key.id)


def create_signing_key(database_url: str, folder: Path) -> resources.SigningKey:
    """Create a signing key in `folder` and register it; the worker signs with it from now on. Earlier keys stay valid."""
    made = make_key(folder)
    try:
        with open_database(database_url) as sessions, sessions.begin() as session:
            return signing_keys.register_signing_key(session, key_id=made.key_id, public_key=made.public_key)
    except BaseException:
        discard_key(folder, made.key_id)
        raise


def ensure_signing_key(database_url: str, folder: Path) -> None:
    """Create a signing key unless `folder` holds one that is registered and not revoked."""
    usable = {key.key_id for key in list_signing_keys(database_url) if key.revoked_at is None}
    if not usable & {path.stem for path in folder.glob("*.pem")}:
        create_signing_key(database_url, folder)


def list_signing_keys(database_url: str) -> list[resources.SigningKey]:
    """List the signing keys, newest first."""
    with open_database(database_url) as sessions, sessions.begin() as session:
        return signing_keys.list_signing_keys(session)


def revoke_signing_key(database_url: str, folder: Path, *, prefix: str, reason: str) -> resources.SigningKey:
    """Revoke the signing key whose ID begins with `prefix` and delete its private half from `folder`.

    Raises KeyCommandRefused unless exactly one key has this prefix.
    """
    with open_database(database_url) as sessions, sessions.begin() as session:
        found = [key for key in signing_keys.list_signing_keys(session) if key.key_id.startswith(prefix)]
        if len(found) != 1:
            count = len(found) or "no"
            raise KeyCommandRefused(
                f"Nothing was revoked: {count} signing keys begin with {prefix!r}; see `expunge signing-keys list`."
            )
        revoked = signing_keys.revoke_signing_key(session, key_id=found[0].key_id, reason=reason)
    discard_key(folder, revoked.key_id)
    return revoked
