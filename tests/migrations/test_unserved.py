"""Migrations 0017 and 0018: what has failed before is owed, and which stored versions know erased people is found out."""

from alembic import command
from sqlalchemy import text

from ledger.requests.requests import list_requests
from ledger.states import Reason
from migrations.commands import configuration, upgrade

BEFORE = "0016"


def test_a_failed_request_and_versions_that_know_erased_people_come_from_the_version_before(world, newest_database_url):
    world.finish(world.submit_and_claim(1))
    world.finish(world.submit_and_claim(2))
    failed = world.submit(3)
    world.fail(world.claim(failed.targets[0].job.id), Reason.UNEXPECTED)

    command.downgrade(configuration(newest_database_url), BEFORE)
    upgrade(newest_database_url)

    with world.sessions() as session:
        found = list_requests(session, tenant_id=world.tenant_id, unserved=True).items
        numbers = session.scalars(text("SELECT number FROM model_versions WHERE knows_erased ORDER BY number")).all()
    assert ([request.id for request in found], numbers) == ([failed.id], [1, 2])
