"""Migration 0041: failures from before it are counted, also of requests that were retried since."""

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

from alembic import command
from sqlalchemy import text, update

from ledger import metrics
from ledger.jobs.cancellation import retry_job
from ledger.states import Reason
from ledger.tables import UnlearnRequest
from migrations.commands import configuration, upgrade
from tests.ledger.conftest import World

BEFORE = "0040"


def test_failures_from_before_are_counted(world: World, newest_database_url: str) -> None:
    """One whose request is open again, one of now, and one of long ago, which was late."""
    long_ago = datetime.now(UTC) - timedelta(days=60)
    retried, late = world.submit_and_claim(1), world.submit_and_claim(2, models=["large"], received_at=long_ago)
    for claim in (retried, late):
        world.fail(claim, Reason.WORKLOAD_FAILED)
    with world.sessions.begin() as session:
        ended = datetime.now(UTC) - timedelta(days=2)
        session.execute(update(UnlearnRequest).where(UnlearnRequest.received_at == long_ago).values(finished_at=ended))
        retry_job(session, tenant_id=world.tenant_id, job_id=retried.job_id)
    world.fail(world.submit_and_claim(3, models=["large"]), Reason.WORKLOAD_FAILED)

    command.downgrade(configuration(newest_database_url), BEFORE)
    upgrade(newest_database_url)
    with world.sessions() as session:
        assert metrics.requests_finished(session) == {"failed": (3, 1)}
        columns = UnlearnRequest.failures, UnlearnRequest.late_failures
        assert sorted(session.query(*columns).all()) == [(1, 0), (1, 0), (1, 1)]


def test_requests_are_not_locked_while_all_events_are_read(world: World, newest_database_url: str) -> None:
    world.fail(world.submit_and_claim(1), Reason.WORKLOAD_FAILED)
    command.downgrade(configuration(newest_database_url), BEFORE)
    with ThreadPoolExecutor() as pool:
        with world.sessions.begin() as session:
            session.execute(text("LOCK TABLE events IN ACCESS EXCLUSIVE MODE"))
            upgrading = pool.submit(upgrade, newest_database_url)
            world.await_lock("the migration to read the events")
            session.execute(text("LOCK TABLE unlearn_requests IN ROW EXCLUSIVE MODE NOWAIT"))
        upgrading.result()
    with world.sessions() as session:
        assert metrics.requests_finished(session) == {"failed": (1, 0)}
