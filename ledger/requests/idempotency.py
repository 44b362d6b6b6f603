"""Idempotency keys: a request that is sent twice with one key is recorded once."""

from dataclasses import asdict, dataclass
from datetime import timedelta
from uuid import UUID

from sqlalchemy import delete, func, select
from sqlalchemy.orm import Session

from ledger.db import now
from ledger.errors import IdempotencyInProgress, IdempotencyMismatch
from ledger.tables import IdempotencyKey

KEY_RETENTION = timedelta(days=30)
"""How long a key is remembered."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Idempotency:
    """A caller's key, and the SHA-256 (hex) of the body that came with it. caller: the name of its API key."""

    tenant_id: UUID
    caller: str
    key: str
    body_sha256: str


def find_replay(session: Session, idempotency: Idempotency) -> UUID | None:
    """Find the request that was made with this key. None means first use; the caller must then call `store_key`.

    The key stays locked until the transaction ends, so of two simultaneous calls one is the first.
    Raises IdempotencyInProgress while the first is running, and IdempotencyMismatch if its body was another.
    """
    name = func.hashtextextended(f"{idempotency.tenant_id}/{idempotency.caller}/{idempotency.key}", 0)
    if not session.scalar(select(func.pg_try_advisory_xact_lock(name))):
        raise IdempotencyInProgress(
            "the first request with this idempotency key is still running; try again in a moment"
        )
    known = session.get(
        IdempotencyKey, (idempotency.tenant_id, idempotency.caller, idempotency.key), populate_existing=True
    )
    if known is None:
        return None
    if known.created_at <= now(session) - KEY_RETENTION:
        session.delete(known)
        session.flush()
        return None
    if known.body_sha256 != idempotency.body_sha256:
        raise IdempotencyMismatch("this idempotency key was used with another body; take a new key for a new request")
    return known.request_id


def store_key(session: Session, idempotency: Idempotency, *, request_id: UUID) -> None:
    """Record the request that a key's first use has made."""
    session.add(IdempotencyKey(**asdict(idempotency), request_id=request_id))


def delete_expired_keys(session: Session) -> None:
    """Delete the keys that are older than KEY_RETENTION."""
    session.execute(delete(IdempotencyKey).where(IdempotencyKey.created_at <= func.clock_timestamp() - KEY_RETENTION))
