"""The public signing keys: which there are, which may sign, which are revoked."""

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import select
from sqlalchemy.orm import Session

from ledger.db import now
from ledger.errors import AlreadyRegistered, UnknownKey
from ledger.tables import SigningKey
from ledger.transparency.log import log_key


@dataclass(frozen=True, slots=True, kw_only=True)
class SigningKeyView:
    """A public key: PEM, by the SHA-256 of its DER form."""

    key_id: str
    public_key: str
    created_at: datetime
    revoked_at: datetime | None
    revocation_reason: str | None


def register_signing_key(session: Session, *, key_id: str, public_key: str) -> SigningKeyView:
    """Make a public key known; from now on the worker signs with its private half. Raises AlreadyRegistered."""
    if session.get(SigningKey, key_id) is not None:
        raise AlreadyRegistered(f"the signing key {key_id} is registered already")
    key = SigningKey(key_id=key_id, public_key=public_key)
    session.add(key)
    session.flush()
    log_key(session, key_id=key_id, revoked=False)
    return _view(key)


def list_signing_keys(session: Session) -> list[SigningKeyView]:
    """All keys, newest first, the revoked ones too: what they signed must be recognised as worthless."""
    return [
        _view(key)
        for key in session.scalars(select(SigningKey).order_by(SigningKey.created_at.desc(), SigningKey.key_id))
    ]


def usable_signing_keys(session: Session) -> list[str]:
    """The ids of the keys that are not revoked, newest first: the worker signs with the first whose private half it has."""
    return [key.key_id for key in list_signing_keys(session) if key.revoked_at is None]


def revoke_signing_key(session: Session, *, key_id: str, reason: str) -> SigningKeyView:
    """Revoke a key, for ever: nothing that it has signed counts any more. Again does nothing. Raises UnknownKey."""
    key = session.get(SigningKey, key_id, with_for_update=True)
    if key is None:
        raise UnknownKey(f"there is no signing key {key_id}")
    if key.revoked_at is None:
        key.revoked_at, key.revocation_reason = now(session), reason
        session.flush()
        log_key(session, key_id=key_id, revoked=True)
    return _view(key)


def _view(key: SigningKey) -> SigningKeyView:
    return SigningKeyView(
        key_id=key.key_id,
        public_key=key.public_key,
        created_at=key.created_at,
        revoked_at=key.revoked_at,
        revocation_reason=key.revocation_reason,
    )
