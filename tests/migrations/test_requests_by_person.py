"""Migration 0026: requests and uploads of the version before go on, and requests by person survive the way back."""

from alembic import command

from ledger.requests import uploads
from ledger.states import JobState, RequestState
from migrations.commands import configuration, upgrade
from tests.ledger.conftest import World, assign, committed, digests, people

BEFORE = "0025"


def test_requests_and_uploads_of_the_version_before_go_on(world: World, newest_database_url: str) -> None:
    with world.sessions.begin() as session:
        assign(session, world.tenant_id, "digits", ann=digests(5, 6))
    plain = world.submit(1)
    by_person = world.submit(datasets=None, subjects=committed("ann"))
    sent = {}
    for dataset, given in ((None, people("ann")), ("digits", digests(7))):
        with world.sessions.begin() as session:
            with uploads.receive_digests(session) as copy:
                uploads.send_digests(copy, [(given[0], 1)])
            sent[dataset] = uploads.store_upload(session, tenant_id=world.tenant_id, dataset=dataset)

    command.downgrade(configuration(newest_database_url), BEFORE)
    upgrade(newest_database_url)

    found = world.request(plain.id)
    assert (found.datasets, found.every_dataset, found.subjects) == (("digits",), False, None)
    assert world.request(by_person.id).samples.accepted == 2
    assert world.count("uploaded_manifests") == world.count("uploaded_samples") == 1
    later = world.submit(upload_id=sent["digits"].id)
    job_id = later.targets[0].job.id
    world.finish(world.claim(job_id))
    assert world.job(job_id).state == JobState.COMPLETED
    assert world.request(by_person.id).state == RequestState.COMPLETED
