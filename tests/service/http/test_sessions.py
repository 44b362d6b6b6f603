from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress

import psutil
import pytest
import redis
from sqlalchemy import URL, Connection, Engine, NullPool, create_engine, event, func, make_url, select, text
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session, sessionmaker

import ledger.db
from ledger.db import make_engine, make_sessions
from ledger.tables import UnlearnRequest
from migrations.commands import upgrade
from tests.fixtures.postgresql import at_a_distance, embedded_server
from tests.fixtures.waiting import PATIENCE
from tests.service.conftest import Serve, Site, set_up

ASKED = {"dataset": "scans", "sample_ids": ["sample-1"], "expedite": True}


@pytest.fixture
def failing_commit(site: Site) -> Iterator[None]:
    """The connection breaks at each commit."""

    def fail(session: Session) -> None:
        raise OperationalError("COMMIT", None, ConnectionResetError())

    event.listen(Session, "before_commit", fail)
    yield
    event.remove(Session, "before_commit", fail)


@pytest.mark.usefixtures("failing_commit")
def test_what_could_not_be_committed_is_not_acknowledged_and_wakes_nobody(
    serve: Serve, site: Site, sessions: sessionmaker[Session], broker_url: str
) -> None:
    with redis.Redis.from_url(broker_url) as queue:
        queue.flushall()

        answer = serve(key=site.admin, broker=broker_url).post("/unlearn-requests", json=ASKED)

        assert answer.status_code == 503
        assert queue.llen("celery") == 0
    with sessions() as session:
        assert session.scalar(select(func.count()).select_from(UnlearnRequest)) == 0


@pytest.fixture
def asked(site: Site) -> Iterator[list[bool]]:
    """For each statement that is sent to the database: whether it stands in a transaction."""
    seen: list[bool] = []

    def note(connection: Connection, *_: object) -> None:
        seen.append(not connection.connection.driver_connection.autocommit)

    event.listen(Engine, "before_cursor_execute", note)
    yield seen
    event.remove(Engine, "before_cursor_execute", note)


def test_polling_is_two_statements_and_no_transaction(serve: Serve, site: Site, asked: list[bool]) -> None:
    """Whose the key is, and how far it is. It is what clients call most."""
    client = serve(key=site.admin)
    waiting = {**ASKED, "expedite": False}  # nothing is sent after the answer
    request = client.post("/unlearn-requests", json=waiting).json()
    for path in (f"/jobs/{request['targets'][0]['job']['id']}", f"/unlearn-requests/{request['id']}"):
        asked.clear()

        assert client.get(path).status_code == 200

        assert asked == [False, False]


def test_a_call_that_writes_is_one_transaction_after_the_key_is_checked(
    serve: Serve, site: Site, asked: list[bool]
) -> None:
    client = serve(key=site.admin)

    assert client.post("/unlearn-requests:preview", json=ASKED).status_code == 200

    assert asked[0] is False
    assert all(asked[1:])


@contextmanager
def frozen(url: URL) -> Iterator[None]:
    """Stop every process of the PostgreSQL server at this URL, as a machine does that hangs. The kernel still takes connections."""
    engine = create_engine(url, poolclass=NullPool)
    with engine.connect() as connection:
        backend = psutil.Process(connection.scalar(text("SELECT pg_backend_pid()")))
        server = backend.parent()
    engine.dispose()
    assert server is not None
    processes = [server, *server.children(recursive=True)]

    def each(act: Callable[[psutil.Process], None]) -> None:
        for process in processes:
            with suppress(psutil.NoSuchProcess):  # a process of the server's own may end at any moment
                act(process)

    try:
        each(psutil.Process.suspend)
        yield
    finally:
        each(psutil.Process.resume)


def test_while_the_database_hangs_every_call_ends_with_503_and_afterwards_all_are_served(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its pool is warm: each connection has been used, and TCP finds nothing wrong with it."""
    monkeypatch.setattr(ledger.db, "PING_SECONDS", 3.0)  # enough for thirty connections that are opened at once
    with embedded_server() as url, ThreadPoolExecutor(30) as pool:
        address = url.render_as_string(hide_password=False)
        upgrade(address)
        engine = make_engine(url)
        with make_sessions(engine).begin() as session:
            site = set_up(session)
        engine.dispose()
        client = serve(database=address, key=site.admin, alone=True, statement_seconds=PATIENCE)

        def call(number: int) -> int:
            if number % 5:  # Few write: they wait for each other's locks, within the limit of a statement.
                return client.get("/models").status_code
            return client.post("/unlearn-requests", json=ASKED).status_code

        assert set(pool.map(call, range(30))) == {200, 202}
        with frozen(url):
            assert set(pool.map(call, range(30))) == {503}
            assert client.get("/livez").status_code == 200
        assert set(pool.map(call, range(30))) == {200, 202}


def test_when_the_databases_machine_vanishes_calls_get_503_and_are_served_once_it_is_back(
    serve: Serve, site: Site, database_url: str
) -> None:
    """Its pool is warm, no packet says that the other end is gone, and the connections of before never work again."""
    with at_a_distance(database_url) as (relay, url):
        client = serve(database=url, key=site.admin, alone=True)
        assert client.get("/models").status_code == 200
        relay.vanish()
        assert client.get("/models").status_code == 503
        assert client.post("/unlearn-requests", json=ASKED).status_code == 503
        assert client.get("/livez").status_code == 200
        relay.come_back()
        assert client.post("/unlearn-requests", json=ASKED).status_code == 202


def test_a_call_that_waits_too_long_for_a_lock_gets_503(
    serve: Serve, site: Site, sessions: sessionmaker[Session]
) -> None:
    client = serve(key=site.admin, statement_seconds=0.5)
    with sessions.begin() as session:
        session.execute(text("LOCK TABLE unlearn_requests IN EXCLUSIVE MODE"))
        answer = client.post("/unlearn-requests", json=ASKED)
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "5")
    assert serve(key=site.admin).post("/unlearn-requests", json=ASKED).status_code == 202


def test_while_the_database_is_read_only_a_call_that_writes_gets_503(
    serve: Serve, site: Site, database_url: str
) -> None:
    """A standby that was not promoted yet lets everybody in, and refuses to write."""
    standby = make_url(database_url).update_query_dict({"options": "-c default_transaction_read_only=on"})
    client = serve(key=site.admin, database=standby.render_as_string(hide_password=False), alone=True)

    assert client.get("/models").status_code == 200
    answer = client.post("/unlearn-requests", json=ASKED)
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "5")
