"""Database sessions of calls: work is committed once, before the response is sent."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Annotated

from anyio import CancelScope, CapacityLimiter
from fastapi import Depends, Request
from fastapi.concurrency import run_in_threadpool
from sqlalchemy import Engine
from sqlalchemy.orm import Session, sessionmaker

from ledger.db import make_engine, make_sessions

CONNECTIONS = 20
"""Connections of a process; each call in progress holds at most one."""

READ_METHODS = frozenset({"GET", "HEAD"})
"""HTTP methods of calls that write nothing."""


@dataclass(frozen=True, slots=True)
class Database:
    """The engine, sessions for calls that write and for calls that only read, and a limiter of the calls that hold a connection.

    Without the limiter, calls that wait for a connection would occupy all threads, and those that have one would wait for a thread.
    """

    engine: Engine
    sessions: sessionmaker[Session]
    reading: sessionmaker[Session]
    limiter: CapacityLimiter


def make_database(url: str, *, statement_seconds: float) -> Database:
    """Make the database at a URL, without a connection yet. Raises ValueError if it is not PostgreSQL."""
    engine = make_engine(url, pool_size=CONNECTIONS, statement_seconds=statement_seconds)
    # Under READ COMMITTED a statement sees the same inside and outside a transaction, and this saves two round trips.
    reading = make_sessions(engine.execution_options(isolation_level="AUTOCOMMIT"))
    return Database(engine, make_sessions(engine), reading, CapacityLimiter(CONNECTIONS))


async def _session(request: Request) -> AsyncIterator[Session]:
    """Open a session for one call: committed if the call returns, rolled back if it raises."""
    database: Database = request.app.state.database
    async with database.limiter:
        if request.method in READ_METHODS:
            with database.reading() as session:  # There is no transaction to end, so closing it does not block.
                yield session
            return
        session = database.sessions()
        try:
            yield session
            await run_in_threadpool(session.commit)
        finally:
            with CancelScope(shield=True):
                await run_in_threadpool(session.close)


Ledger = Annotated[Session, Depends(_session, scope="function")]
"""Without `scope="function"` FastAPI would commit after the response is sent, and a 202 could be false."""
