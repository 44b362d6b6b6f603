import pytest

from ledger.errors import UnknownJob
from ledger.events.timeline import list_job_events
from ledger.jobs.cancellation import cancel_job, retry_job
from ledger.jobs.jobs import get_job, list_attempts, list_jobs
from ledger.registry.access import ensure_tenant
from ledger.states import JobState


def test_a_list_of_jobs_can_be_filtered_and_read_page_by_page(world):
    request = world.submit(1, models=None)
    large, small = (target.job.id for target in request.targets)
    world.claim(large)
    with world.sessions() as session:
        given = {"tenant_id": world.tenant_id}
        assert [job.id for job in list_jobs(session, **given, state=JobState.RUNNING).items] == [large]
        assert [job.id for job in list_jobs(session, **given, model="small").items] == [small]
        first = list_jobs(session, **given, limit=1)
        second = list_jobs(session, **given, limit=1, cursor=first.next_cursor)
    assert {first.items[0].id, second.items[0].id} == {large, small}
    assert second.next_cursor is None


def test_a_job_shows_the_earliest_deadline_of_its_requests(world):
    early = world.submit(1)
    world.submit(2, regulation="ccpa")
    assert world.job(early.targets[0].job.id).due_at == early.due_at


def test_another_tenant_sees_no_job(world):
    job_id = world.submit(1).targets[0].job.id
    with world.sessions.begin() as session:
        other = ensure_tenant(session, "bank")
        for call in (get_job, cancel_job, retry_job, list_attempts, list_job_events):
            with pytest.raises(UnknownJob):
                call(session, tenant_id=other, job_id=job_id)
        assert list_jobs(session, tenant_id=other).items == []
