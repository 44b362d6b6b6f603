"""Brings the log up to date: with each publication, in its transaction, and here at each sweep."""

import logging

from sqlalchemy.orm import Session, sessionmaker

from ledger.log import give_places
from ledger.log_reading import keep_checkpoint
from worker.errors import NoSigningKey
from worker.settings import Settings
from worker.signing import find_signer

logger = logging.getLogger(__name__)


def sign_log(sessions: sessionmaker[Session], settings: Settings) -> bool:
    """Give the log's entries their places, and sign a checkpoint where there were any; tells whether it was signed.

    Without a usable key the log goes on unsigned, and the worker's log says so.
    """
    try:
        signer = find_signer(sessions, settings.signing_keys)
    except NoSigningKey as error:
        logger.error("the log is not signed: %s", error)
        signer = None
    with sessions.begin() as session:
        if signer is None:
            give_places(session)
            return False
        return keep_checkpoint(session, signer.checkpoint)
