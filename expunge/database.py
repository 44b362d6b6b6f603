"""The database for one command: opened, used in transactions, closed."""

from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy.orm import Session, sessionmaker

from ledger.engine import make_engine, make_sessions


@contextmanager
def opened(database_url: str) -> Iterator[sessionmaker[Session]]:
    """Give sessions on the database; every connection is closed at the end."""
    engine = make_engine(database_url, pool_size=1)
    try:
        yield make_sessions(engine)
    finally:
        engine.dispose()
