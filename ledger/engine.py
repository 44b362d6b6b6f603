"""Connections to PostgreSQL."""

from sqlalchemy import URL, Engine, create_engine, make_url
from sqlalchemy.orm import Session, sessionmaker


def normalise_url(url: str) -> URL:
    """The URL with the psycopg driver; takes `postgres://` and `postgresql://` too. Raises ValueError for another database."""
    parsed = make_url(url)
    if parsed.get_backend_name() not in {"postgresql", "postgres"}:
        raise ValueError(f"the database must be PostgreSQL (postgresql://…), not {parsed.drivername}://")
    return parsed.set(drivername="postgresql+psycopg")


def make_engine(url: str | URL, *, pool_size: int = 10) -> Engine:
    """An engine whose sessions speak UTC and notice a restarted server. One a process: make it after a fork, never before."""
    return create_engine(
        normalise_url(url) if isinstance(url, str) else url,
        pool_pre_ping=True,
        pool_size=pool_size,
        hide_parameters=True,  # an error's message goes into logs, and they hold what callers sent
        connect_args={"options": "-c timezone=utc", "application_name": "expunge"},
    )


def make_sessions(engine: Engine) -> sessionmaker[Session]:
    """The factory of sessions. The caller's edge commits: `with sessions.begin() as session:` is one transaction."""
    return sessionmaker(engine, expire_on_commit=False)
