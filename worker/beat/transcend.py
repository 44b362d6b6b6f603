"""Results of Transcend's jobs, by a thread of the beat: each is sent until Transcend has it."""

import logging

from sqlalchemy.orm import Session, sessionmaker

from connectors.configuration import HandOverFailed
from connectors.transcend import MANAGER, ResultRefused, Transcend, make_result, unseal
from ledger.requests.managed import list_results, record_reported

logger = logging.getLogger(__name__)


def report_results(sessions: sessionmaker[Session], transcend: Transcend, *, key: bytes) -> None:
    """Send the results that are due, each recorded before the next. It ends where Sombra fails; the next time it goes on.

    key: that of the sample IDs, by which the nonces are sealed. A result that Sombra refuses holds up no other. A beat that dies in
    between sends a result again, which Transcend takes as the same.
    """
    last = None
    while True:
        with sessions.begin() as session:
            due = list_results(session, MANAGER, after=last)
        if not due:
            return
        for last in due:
            result = make_result(last)
            if result is None or last.reply is None:
                continue
            try:
                transcend.send_result(unseal(last.reply, key=key, reference=last.reference), result)
            except HandOverFailed as error:
                logger.warning("transcend, request %s: %s", last.reference, error)
                if not isinstance(error, ResultRefused):
                    return
                continue
            with sessions.begin() as session:
                record_reported(session, last, MANAGER)
