"""The time of the database, the one clock that all processes share."""

from datetime import datetime

from sqlalchemy import func, select
from sqlalchemy.orm import Session


def now(session: Session) -> datetime:
    """The moment of the call (not of the transaction's start), aware, in UTC."""
    moment: datetime = session.scalars(select(func.clock_timestamp())).one()
    return moment
