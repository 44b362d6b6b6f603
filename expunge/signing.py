"""Signing keys, made and revoked by the operator: the private half into the worker's folder, the public one into the ledger."""

from pathlib import Path

from expunge.database import opened
from expunge.errors import KeyCommandRefused
from ledger.signing_keys import SigningKeyView, list_signing_keys, register_signing_key, revoke_signing_key
from worker.signing import discard_key, make_key


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
