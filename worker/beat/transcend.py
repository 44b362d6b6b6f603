"""Results of Transcend's jobs, by a thread of the beat: each is sent until Transcend has it."""

import logging
import time
from collections.abc import Callable

from sqlalchemy.orm import Session, sessionmaker

from connectors.configuration import HandOverFailed
from connectors.transcend import MANAGER, ResultRefused, Transcend, make_result, unseal
from ledger.requests.managed import Managed, list_results, record_reported

logger = logging.getLogger(__name__)

FIRST_WAIT, WAIT_LIMIT = 60.0, 86400.0
"""Seconds before a result that Sombra refused is sent again: at first, doubled with each refusal, and at most."""

Refusals = dict[Managed, tuple[float, float]]
"""Requests whose results Sombra refuses: when each is sent again, by the clock, and how long the wait is then."""


def report_results(
    sessions: sessionmaker[Session],
    transcend: Transcend,
    *,
    key: bytes,
    refusals: Refusals,
    clock: Callable[[], float] = time.monotonic,
) -> None:
    """Send the results that are due, each recorded before the next. It ends where Sombra fails; the next time it goes on.

    A result that Sombra refuses holds up no other. A beat that dies in between sends a result again, which Transcend takes as the
    same. key: that of the sample IDs, by which the nonces are sealed. refusals: kept from one call to the next. A beat that starts
    anew has none, and tries everything; so it does with a request that has changed.
    """
    last = None
    listed: set[Managed] = set()
    while True:
        with sessions.begin() as session:
            due = list_results(session, MANAGER, after=last)
        if not due:
            for gone in refusals.keys() - listed:
                del refusals[gone]
            return
        for last in due:
            listed.add(last)
            result = make_result(last)
            again_at, wait = refusals.get(last, (0.0, FIRST_WAIT))
            if result is None or last.reply is None or again_at > clock():
                continue
            try:
                transcend.send_result(unseal(last.reply, key=key, reference=last.reference), result)
            except ResultRefused as error:
                refusals[last] = (clock() + wait, min(2 * wait, WAIT_LIMIT))
                logger.warning("transcend, request %s, sent again in %g s: %s", last.reference, wait, error)
                continue
            except HandOverFailed as error:
                logger.warning("transcend, request %s: %s", last.reference, error)
                return
            with sessions.begin() as session:
                record_reported(session, last, MANAGER)
