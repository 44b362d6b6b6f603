from collections.abc import Iterator

import pytest
import redis
from sqlalchemy import Connection, Engine, event, func, select
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session, sessionmaker

from ledger.tables import UnlearnRequest
from tests.service.conftest import Serve, Site

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
