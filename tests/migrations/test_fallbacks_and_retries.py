"""Migration 0022: jobs from the version before continue, and its own reasons become one that the version before knows."""

from alembic import command
from sqlalchemy import create_engine, pool, text

from ledger.db import make_sessions, normalise_url
from ledger.registry.models import get_model
from ledger.states import JobState, Reason
from migrations.commands import configuration, upgrade
from tests.ledger.conftest import make_world

BEFORE = "0021"


def test_jobs_and_models_of_the_version_before_continue_and_new_reasons_become_old_ones(
    blank_database_url: str,
) -> None:
    upgrade(blank_database_url)
    engine = create_engine(normalise_url(blank_database_url), poolclass=pool.NullPool)
    world = make_world(make_sessions(engine))
    failed, waiting = world.submit_and_claim(1), world.submit(2, models=["large"]).targets[0].job.id
    world.fail(failed, Reason.METHOD_FAILED)

    command.downgrade(configuration(blank_database_url), BEFORE)
    with engine.connect() as connection:
        found = connection.execute(text("SELECT reason FROM jobs WHERE id = :id"), {"id": failed.job_id})
        assert found.scalar_one() == Reason.UNEXPECTED

    upgrade(blank_database_url)
    job = world.job(failed.job_id)
    assert (job.state, job.reason, job.fallback, job.retry_at) == (JobState.FAILED, Reason.UNEXPECTED, None, None)
    with world.sessions() as session:
        assert get_model(session, tenant_id=world.tenant_id, name="small").approve_utility_drop == 2.0
    world.finish(world.claim(waiting))
    assert world.job(waiting).state == JobState.COMPLETED
    engine.dispose()
