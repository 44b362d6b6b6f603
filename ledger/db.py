"""Connections to PostgreSQL, how long they wait for it, and its clock."""

import time
from collections.abc import Generator, Mapping
from datetime import datetime
from typing import Any, TypeVar, cast

import psycopg
from psycopg.abc import PQGen
from sqlalchemy import URL, Connection, Engine, create_engine, event, func, make_url, select, text
from sqlalchemy.exc import ArgumentError, DisconnectionError, InterfaceError, InternalError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.orm import Session, sessionmaker

T = TypeVar("T")

CONNECT_SECONDS = 3
"""Seconds to wait for a new connection."""

PING_SECONDS = 5.0
"""Seconds to wait until a connection from the pool shows that it is alive."""

ANSWER_MARGIN = 5.0
"""Seconds beyond the server's own limit of a statement after which a connection is given up: the server itself hangs."""

IDLE_LIMIT = 30.0
"""Seconds that an open transaction may wait for its client, if statements are limited at all. A process that is frozen within a
transaction keeps its locks for so long, and others wait for them."""

BULK_STATEMENT_LIMIT = 1800.0
"""Seconds that a statement over millions of samples may take."""

NETWORK_LIMITS = {
    "connect_timeout": str(CONNECT_SECONDS),
    "keepalives": "1",
    "keepalives_idle": "30",
    "keepalives_interval": "10",
    "keepalives_count": "3",
    "tcp_user_timeout": "30000",  # milliseconds that sent bytes may stay unacknowledged
}
"""How a connection whose other end has vanished is noticed within a minute."""

SERVERS_NETWORK_LIMITS = {
    "tcp_keepalives_idle": "30",
    "tcp_keepalives_interval": "10",
    "tcp_keepalives_count": "3",
    "tcp_user_timeout": "30000",
}
"""How the server notices within a minute that this program's machine has vanished: its session ends then, with its locks."""

DATABASE_AWAY = (OperationalError, InterfaceError, InternalError, DisconnectionError, PoolTimeout)
"""What SQLAlchemy raises while the database cannot be used: no connection, one that broke, a shutdown, a statement that timed out,
a server that is read-only for now, or no free connection in the pool. The same statement may succeed later."""


def parse_url(url: str) -> URL:
    """Read a database's URL. Raises ValueError, which quotes nothing of it: it may hold a password."""
    try:
        return make_url(url)
    except (ValueError, ArgumentError):
        raise ValueError(
            "the database's URL cannot be read; in a user's name and a password write @ as %40, : as %3A and / as %2F"
        ) from None


def normalise_url(url: str) -> URL:
    """Return the URL with the psycopg driver. Takes `postgres://` and `postgresql://` too. Raises ValueError for others."""
    parsed = parse_url(url)
    if parsed.get_backend_name() not in {"postgresql", "postgres"}:
        raise ValueError(f"the database must be PostgreSQL (postgresql://…), not {parsed.drivername}://")
    return parsed.set(drivername="postgresql+psycopg")


class LimitedConnection(psycopg.Connection[Any]):
    """A connection that waits at most `answer_seconds` for each answer, without end if None.

    The server's own statement_timeout does not fire in a server that hangs, and TCP keeps its connections alive. `is_pooled` tells
    that it leads to a connection pooler (PgBouncer), which may give each transaction another connection of the server.
    """

    answer_seconds: float | None = None
    is_pooled: bool = False

    def wait(self, gen: PQGen[T], interval: float = 0.1, timeout: float | None = None) -> T:
        """Wait for an answer. Raises psycopg.OperationalError, and the connection is closed, if none comes in time."""
        limited = gen if self.answer_seconds is None else self._within(gen, self.answer_seconds)
        return super().wait(limited, interval, timeout)

    def _within(self, gen: PQGen[T], seconds: float) -> Generator[Any, Any, T]:
        ends = time.monotonic() + seconds
        try:
            state = next(gen)
            while True:
                ready = yield state
                if not ready and time.monotonic() > ends:
                    self.pgconn.finish()
                    raise psycopg.OperationalError(f"the database has not answered for {seconds:.0f} s")
                state = gen.send(ready)
        except StopIteration as end:
            return cast(T, end.value)


def session_settings(*, statement_seconds: float | None = None) -> dict[str, str]:
    """Give PostgreSQL's settings of every session of this program; see `make_engine`."""
    if statement_seconds is None:
        return {"timezone": "utc"}
    return {
        "timezone": "utc",
        "statement_timeout": milliseconds(statement_seconds),
        "idle_in_transaction_session_timeout": milliseconds(min(statement_seconds, IDLE_LIMIT)),
    }


def milliseconds(seconds: float) -> str:
    """Write a time as PostgreSQL's settings take it."""
    return str(round(1000 * seconds))


def connection_options(location: URL, settings: dict[str, str]) -> dict[str, str]:
    """Give libpq's options of every connection of this program. What the URL sets takes precedence."""
    given = [f"-c {name}={value}" for name, value in (settings | SERVERS_NETWORK_LIMITS).items()]
    if "options" in location.query:
        given.append(str(location.query["options"]))
    missing = {name: value for name, value in NETWORK_LIMITS.items() if name not in location.query}
    return {"application_name": "expunge", "options": " ".join(given), **missing}


def make_engine(url: str | URL, *, pool_size: int = 10, statement_seconds: float | None = None) -> Engine:
    """Create an engine whose sessions use UTC and notice a restarted server. One a process: after a fork, never before.

    statement_seconds: how long a statement may take; a transaction may wait as long for its client, but at most IDLE_LIMIT. None
    for no limit. The URL may lead to PgBouncer, in transaction mode too. Then statements are not prepared and each transaction sets
    its own limits; a statement outside of a transaction has those of the role.
    """
    location = normalise_url(url) if isinstance(url, str) else url
    settings = session_settings(statement_seconds=statement_seconds)
    engine = create_engine(
        location,
        pool_pre_ping=True,
        pool_size=pool_size,
        hide_parameters=True,  # an error's message goes into logs, and they hold what callers sent
        connect_args=connection_options(location, settings),
    )
    _use_poolers(engine, settings)
    answer_seconds = None if statement_seconds is None else statement_seconds + ANSWER_MARGIN
    _limit_answers(engine, answer_seconds, own_options="options" in location.query)
    return engine


def _limit_answers(engine: Engine, seconds: float | None, *, own_options: bool) -> None:
    """Let the engine's connections wait `seconds` for an answer, and PING_SECONDS while they are in the pool.

    own_options: whether the URL has options of its own, which a pooler must not drop.
    """

    def connect(_dialect: object, _record: object, arguments: Any, options: Any) -> LimitedConnection:
        connection = _connect(arguments, options, own_options=own_options)
        connection.answer_seconds = seconds
        return connection

    def check_in(connection: LimitedConnection | None, _record: object) -> None:
        if connection is not None:
            connection.answer_seconds = PING_SECONDS

    def check_out(connection: LimitedConnection, _record: object, _fairy: object) -> None:
        connection.answer_seconds = seconds

    event.listen(engine, "do_connect", connect)
    event.listen(engine, "checkin", check_in)
    event.listen(engine, "checkout", check_out)


def _connect(arguments: Any, options: Any, *, own_options: bool) -> LimitedConnection:
    """Connect, and find out whether a pooler is in between: it gives its clients process IDs of its own."""
    try:
        connection = LimitedConnection.connect(*arguments, **options)
    except psycopg.OperationalError as error:
        if own_options or "unsupported startup parameter" not in str(error):
            raise
        connection = LimitedConnection.connect(*arguments, **{**options, "options": ""})
    connection.answer_seconds = PING_SECONDS
    try:
        connection.autocommit = True
        found = connection.execute("SELECT pg_backend_pid()").fetchone()
        connection.autocommit = False
    except psycopg.Error:
        connection.close()
        raise
    connection.is_pooled = found is None or found[0] != connection.info.backend_pid
    if connection.is_pooled:
        connection.prepare_threshold = None  # A prepared statement belongs to one connection of the server.
    return connection


def _use_poolers(engine: Engine, settings: Mapping[str, str]) -> None:
    """Let each transaction through a pooler set what other sessions were given at their start."""
    made = ", ".join(f"set_config('{name}', '{value}', true)" for name, value in settings.items())

    def begin(connection: Connection) -> None:
        driver = connection.connection.driver_connection
        if isinstance(driver, LimitedConnection) and driver.is_pooled and not driver.autocommit:
            connection.exec_driver_sql(f"SELECT {made}")

    event.listen(engine, "begin", begin)


def allow_long_statements(session: Session) -> None:
    """Let statements take BULK_STATEMENT_LIMIT seconds until this transaction ends: those over millions of samples.

    Changes nothing on a connection without a limit.
    """
    connection = session.connection().connection.driver_connection
    if not isinstance(connection, LimitedConnection) or connection.answer_seconds is None:
        return
    session.execute(
        text("SELECT set_config('statement_timeout', :limit, true)"), {"limit": milliseconds(BULK_STATEMENT_LIMIT)}
    )
    connection.answer_seconds = BULK_STATEMENT_LIMIT + ANSWER_MARGIN  # until it is back in the pool


def make_sessions(engine: Engine) -> sessionmaker[Session]:
    """Create the factory of sessions. The caller commits: `with sessions.begin() as session:` is one transaction."""
    return sessionmaker(engine, expire_on_commit=False)


def now(session: Session) -> datetime:
    """Return the database's time now (not of the transaction's start), aware, in UTC."""
    moment: datetime = session.scalars(select(func.clock_timestamp())).one()
    return moment
