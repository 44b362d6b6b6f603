from collections.abc import Iterator

import pytest
import redis
from sqlalchemy import event, func, select
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
