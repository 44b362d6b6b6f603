"""Tenants and API keys: who may call.

A key reads `expunge_<prefix>_<secret>`. The secret is 256 random bits, so one round of SHA-256 is enough: slow hashes are for
passwords that people choose. The prefix only finds the row; the secrets are compared in constant time.
"""

import hashlib
import hmac
import secrets
from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from uuid import UUID

from sqlalchemy import delete, func, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from ledger.db import now
from ledger.errors import KeyRefused, UnknownKey, UnknownScope
from ledger.tables import ApiKey, ConsoleSession, Tenant

_LABEL = "expunge"
_REFUSED = "the API key is unknown, expired or revoked"


class Scope(StrEnum):
    """What a key allows."""

    REQUESTS_WRITE = "requests:write"  # submit, cancel and retry
    REQUESTS_READ = "requests:read"  # requests, jobs and their timelines
    MODELS_WRITE = "models:write"  # say which version is served
    REPORTS_READ = "reports:read"
    WEIGHTS_READ = "weights:read"  # fetch the served weights
    ADMIN = "admin"  # all of these, and keys


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyView:
    """An API key without its secret."""

    id: UUID
    name: str
    prefix: str
    scopes: frozenset[Scope]
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class IssuedKey:
    """A new key with its secret, which is shown once and never stored."""

    key: KeyView
    secret: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """The owner of a valid key. `name` is stored with requests and idempotency keys."""

    key_id: UUID
    tenant_id: UUID
    name: str
    scopes: frozenset[Scope]

    def may(self, scope: Scope) -> bool:
        """Whether the key has this scope; `admin` includes all."""
        return scope in self.scopes or Scope.ADMIN in self.scopes


def ensure_tenant(session: Session, name: str) -> UUID:
    """Return the id of the tenant of that name; create it if it does not exist."""
    session.execute(insert(Tenant).values(name=name).on_conflict_do_nothing())
    return session.scalars(select(Tenant.id).where(Tenant.name == name)).one()


def issue_key(
    session: Session, *, tenant_id: UUID, name: str, scopes: Collection[str], expires_at: datetime | None = None
) -> IssuedKey:
    """Create a key. Raises UnknownScope for no scope or an unknown one."""
    known = [scope.value for scope in Scope]
    if not scopes or not set(scopes) <= set(known):
        raise UnknownScope(
            f"scopes must be one or more of {', '.join(known)}; got {', '.join(sorted(scopes)) or 'none'}"
        )
    prefix, secret = secrets.token_hex(6), secrets.token_urlsafe(32)
    key = ApiKey(
        tenant_id=tenant_id,
        name=name,
        prefix=prefix,
        secret_sha256=_hash(secret),
        scopes=sorted(set(scopes)),
        expires_at=expires_at,
    )
    session.add(key)
    session.flush()
    return IssuedKey(key=_view(key), secret=f"{_LABEL}_{prefix}_{secret}")


def authenticate(session: Session, presented: str) -> Caller:
    """Return the owner of this key. Raises KeyRefused, with the same message and after the same work for every reason."""
    label, _, rest = presented.partition("_")
    prefix, _, secret = rest.partition("_")
    key = (
        session.scalar(select(ApiKey).where(ApiKey.prefix == prefix)) if prefix.isalnum() and prefix.isascii() else None
    )
    stored = key.secret_sha256 if key is not None else _hash("")
    same = hmac.compare_digest(stored, _hash(secret))
    if key is None or label != _LABEL or not same:
        raise KeyRefused(_REFUSED)
    return _caller(session, key)


def begin_console_session(session: Session, key_id: UUID, *, lasts: timedelta) -> UUID:
    """Record that a key was presented in a browser, and return the session's id. Deletes sessions that have expired."""
    moment = now(session)
    session.execute(delete(ConsoleSession).where(ConsoleSession.expires_at <= moment))
    begun = ConsoleSession(key_id=key_id, expires_at=moment + lasts)
    session.add(begun)
    session.flush()
    return begun.id


def caller_of_console_session(session: Session, session_id: UUID) -> Caller:
    """Return the owner of the key of a session that has neither ended nor expired. Raises KeyRefused."""
    of_session = select(ApiKey).join(ConsoleSession, ConsoleSession.key_id == ApiKey.id)
    valid = (ConsoleSession.id == session_id) & (ConsoleSession.expires_at > func.clock_timestamp())
    key = session.scalar(of_session.where(valid))
    if key is None:
        raise KeyRefused(_REFUSED)
    return _caller(session, key)


def end_console_session(session: Session, session_id: UUID) -> None:
    """End a session: its cookie is worth nothing from now on, wherever a copy of it is."""
    session.execute(delete(ConsoleSession).where(ConsoleSession.id == session_id))


def _caller(session: Session, key: ApiKey) -> Caller:
    """Return the owner of a key. Raises KeyRefused if it is revoked or expired."""
    if key.revoked_at is not None or (key.expires_at is not None and key.expires_at <= now(session)):
        raise KeyRefused(_REFUSED)
    return Caller(key_id=key.id, tenant_id=key.tenant_id, name=f"key:{key.prefix}", scopes=_scopes(key))


def revoke_key(session: Session, *, tenant_id: UUID, key_id: UUID) -> KeyView:
    """Revoke a key. Revoking it again does nothing. Raises UnknownKey."""
    mine = select(ApiKey).where(ApiKey.id == key_id, ApiKey.tenant_id == tenant_id)
    key = session.scalar(mine.with_for_update().execution_options(populate_existing=True))
    if key is None:
        raise UnknownKey(f"there is no API key {key_id}")
    key.revoked_at = key.revoked_at or now(session)
    session.flush()
    return _view(key)


def list_keys(session: Session, *, tenant_id: UUID) -> list[KeyView]:
    """List all keys of a tenant, oldest first."""
    return [
        _view(key)
        for key in session.scalars(select(ApiKey).where(ApiKey.tenant_id == tenant_id).order_by(ApiKey.created_at))
    ]


def _hash(secret: str) -> bytes:
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).digest()


def _scopes(key: ApiKey) -> frozenset[Scope]:
    return frozenset(Scope(scope) for scope in key.scopes)


def _view(key: ApiKey) -> KeyView:
    return KeyView(
        id=key.id,
        name=key.name,
        prefix=key.prefix,
        scopes=_scopes(key),
        created_at=key.created_at,
        expires_at=key.expires_at,
        revoked_at=key.revoked_at,
    )
