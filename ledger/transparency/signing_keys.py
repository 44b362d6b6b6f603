"""Public signing keys: register, list and revoke them."""

from sqlalchemy import select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from ledger import resources
from ledger.db import now
from ledger.errors import AlreadyRegistered, UnknownKey
from ledger.tables import SigningKey
from ledger.transparency.log import log_key


def register_signing_key(session: Session, *, key_id: str, public_key: str) -> resources.SigningKey:
    """Register a public key. From now on the worker signs with its private key. Raises AlreadyRegistered."""
    made = insert(SigningKey).values(key_id=key_id, public_key=public_key).on_conflict_do_nothing()
    key = session.scalar(made.returning(SigningKey))
    if key is None:
        raise AlreadyRegistered(f"the signing key {key_id} is registered already")
    log_key(session, key_id=key_id, revoked=False)
    return resources.SigningKey.model_validate(key)


def list_signing_keys(session: Session) -> list[resources.SigningKey]:
    """List all keys, newest first. Revoked ones are included, so that their signatures are recognised as void."""
    return [
        resources.SigningKey.model_validate(key)
        for key in session.scalars(select(SigningKey).order_by(SigningKey.created_at.desc(), SigningKey.key_id))
    ]


def usable_signing_keys(session: Session) -> list[str]:
    """List the ids of the keys that are not revoked, newest first. The worker signs with the first whose private key it has."""
    return [key.key_id for key in list_signing_keys(session) if key.revoked_at is None]


def revoke_signing_key(session: Session, *, key_id: str, reason: str) -> resources.SigningKey:
    """Revoke a key for ever. All of its signatures become void. Revoking it again changes nothing. Raises UnknownKey."""
    key = session.get(SigningKey, key_id, with_for_update=True, populate_existing=True)
    if key is None:
        raise UnknownKey(f"there is no signing key {key_id}")
    if key.revoked_at is None:
        key.revoked_at, key.revocation_reason = now(session), reason
        session.flush()
        log_key(session, key_id=key_id, revoked=True)
    return resources.SigningKey.model_validate(key)
