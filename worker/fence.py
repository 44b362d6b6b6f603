"""A worker's transactions: what a lost lease refuses is counted, and stands on the timeline."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session, sessionmaker

from ledger.attempts import count_refused
from ledger.claims import Claim
from ledger.errors import CancelRequested, StaleClaim



@contextmanager
def fenced(sessions: sessionmaker[Session], claim: Claim) -> Iterator[Session]:
    """Open a transaction of a claim. A StaleClaim within it is counted in a transaction of its own, and goes on up."""
    try:
        with sessions.begin() as session:
            yield session
    except CancelRequested:  # A caller's wish, not a lost lease.
        raise
    except StaleClaim:
        try:
            with sessions.begin() as session:
                count_refused(session, claim.job_id, claim.attempt)
        except OperationalError as error:
            logger.warning("a refused write of job %s was not counted: %s", claim.job_id, type(error.orig).__name__)
        raise
