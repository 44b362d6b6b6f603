"""Migration 0022: jobs from the version before continue, and its own reasons become one that the version before knows."""

from alembic import command

from ledger.registry.models import get_model
from ledger.states import JobState, Reason
from migrations.commands import configuration, upgrade
from tests.ledger.conftest import World

BEFORE = "0021"


def test_jobs_and_models_of_the_version_before_continue_and_new_reasons_become_old_ones(
    world: World, newest_database_url: str
) -> None:
    failed, waiting = world.submit_and_claim(1), world.submit(2, models=["large"]).targets[0].job.id
    world.fail(failed, Reason.METHOD_FAILED)

    command.downgrade(configuration(newest_database_url), BEFORE)
    assert world.count("jobs", f"reason = 'unexpected' AND id = '{failed.job_id}'") == 1

    upgrade(newest_database_url)
    job = world.job(failed.job_id)
    assert (job.state, job.reason, job.fallback, job.retry_at) == (JobState.FAILED, Reason.UNEXPECTED, None, None)
    with world.sessions() as session:
        assert get_model(session, tenant_id=world.tenant_id, name="small").approve_utility_drop == 2.0
    world.finish(world.claim(waiting))
    assert world.job(waiting).state == JobState.COMPLETED
