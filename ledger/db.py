"""Connections to PostgreSQL, and its clock."""

from datetime import datetime

from sqlalchemy import URL, Engine, create_engine, func, make_url, select
from sqlalchemy.orm import Session, sessionmaker


def normalise_url(url: str) -> URL:
    """Return the URL with the psycopg driver. Takes `postgres://` and `postgresql://` too. Raises ValueError for others."""
    parsed = make_url(url)
    if parsed.get_backend_name() not in {"postgresql", "postgres"}:
        raise ValueError(f"the database must be PostgreSQL (postgresql://…), not {parsed.drivername}://")
    return parsed.set(drivername="postgresql+psycopg")


def make_engine(url: str | URL, *, pool_size: int = 10) -> Engine:
    """Create an engine whose sessions use UTC and notice a restarted server. One a process: after a fork, never before."""
    return create_engine(
        normalise_url(url) if isinstance(url, str) else url,
        pool_pre_ping=True,
        pool_size=pool_size,
        hide_parameters=True,  # an error's message goes into logs, and they hold what callers sent
        connect_args={"options": "-c timezone=utc", "application_name": "expunge"},
    )


def make_sessions(engine: Engine) -> sessionmaker[Session]:
    """Create the factory of sessions. The caller commits: `with sessions.begin() as session:` is one transaction."""
    return sessionmaker(engine, expire_on_commit=False)


def now(session: Session) -> datetime:
    """Return the database's time now (not of the transaction's start), aware, in UTC."""
    moment: datetime = session.scalars(select(func.clock_timestamp())).one()
    return moment
