"""Migration 0041: failures from before it are counted, also of requests that were retried since."""

from datetime import UTC, datetime, timedelta

from alembic import command

from ledger import metrics
from ledger.jobs.cancellation import retry_job
from ledger.states import Reason
from migrations.commands import configuration, upgrade
from tests.ledger.conftest import World

BEFORE = "0040"


def test_failures_from_before_are_counted(world: World, newest_database_url: str) -> None:
    long_ago = datetime.now(UTC) - timedelta(days=60)
    retried, late = world.submit_and_claim(1), world.submit_and_claim(2, models=["large"], received_at=long_ago)
    for claim in (retried, late):
        world.fail(claim, Reason.WORKLOAD_FAILED)
    with world.sessions.begin() as session:
        retry_job(session, tenant_id=world.tenant_id, job_id=retried.job_id)

    command.downgrade(configuration(newest_database_url), BEFORE)
    upgrade(newest_database_url)
    with world.sessions() as session:
        assert metrics.requests_finished(session) == {"failed": (2, 1)}
