"""The edge where work in the database is committed: once, before the answer leaves."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Annotated

from anyio import CancelScope, CapacityLimiter
from fastapi import Depends, Request
from fastapi.concurrency import run_in_threadpool
from sqlalchemy import Engine
from sqlalchemy.orm import Session, sessionmaker

from ledger.db import make_engine, make_sessions, normalise_url

CONNECTIONS = 20
"""Connections a process; each call in progress holds at most one."""


READING = frozenset({"GET", "HEAD"})
"""Methods of calls that write nothing."""


@dataclass(frozen=True, slots=True)
class Database:
    """The engine, its sessions, those for calls that only read, and a turnstile in front of them.

    Without the turnstile, calls that wait for a connection would hold all threads while those that have one wait for a thread.
    """

    engine: Engine
    sessions: sessionmaker[Session]
    reading: sessionmaker[Session]
    turnstile: CapacityLimiter


def make_database(url: str) -> Database:
    """The database at a URL; nothing is connected yet. Raises ValueError where it is not PostgreSQL."""
    location = normalise_url(url)
    if "connect_timeout" not in location.query:
        location = location.update_query_dict({"connect_timeout": "3"})
    engine = make_engine(location, pool_size=CONNECTIONS)
    # Each statement by itself sees what a transaction's would (READ COMMITTED), and two trips to the database are saved.
    reading = make_sessions(engine.execution_options(isolation_level="AUTOCOMMIT"))
    return Database(engine, make_sessions(engine), reading, CapacityLimiter(CONNECTIONS))


async def _session(request: Request) -> AsyncIterator[Session]:
    """A session for one call: committed where the call returns, rolled back where it raises."""
    database: Database = request.app.state.database
    async with database.turnstile:
        if request.method in READING:
            with database.reading() as session:  # to close it waits for nothing: no transaction is to be ended
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
"""Without `scope="function"` FastAPI would commit after the response is sent, and a 202 could be a lie."""
