from datetime import timedelta

import pytest

from ledger.errors import NotFailed, TooLate, UnknownJob
from ledger.events.timeline import list_job_events
from ledger.jobs.claims import release_job, renew_lease
from ledger.jobs.jobs import cancel_job, get_job, list_attempts, list_jobs, retry_job
from ledger.registry.access import ensure_tenant
from ledger.states import JobState, Reason, RequestState
from tests.ledger.conftest import LEASE, digests, nothing_written


def cancel(world, job_id):
    with world.sessions.begin() as session:
        return cancel_job(session, tenant_id=world.tenant_id, job_id=job_id)


def retry(world, job_id):
    with world.sessions.begin() as session:
        return retry_job(session, tenant_id=world.tenant_id, job_id=job_id)


def test_a_waiting_job_is_cancelled_at_once(world):
    request = world.submit(1)
    job_id = request.targets[0].job.id
    assert cancel(world, job_id).state == JobState.CANCELLED
    assert world.request(request.id).state == RequestState.CANCELLED
    with nothing_written(world):
        assert cancel(world, job_id).state == JobState.CANCELLED
        assert world.claim(job_id) is None


def test_a_running_job_is_cancelled_by_its_worker(world):
    claim = world.submit_and_claim(1)
    assert cancel(world, claim.job_id).cancel_requested
    with nothing_written(world):
        cancel(world, claim.job_id)
    with world.sessions.begin() as session:
        assert renew_lease(session, claim, lease=LEASE).cancel_requested
    world.fail(claim, Reason.CANCELLED_BY_CALLER)
    assert world.job(claim.job_id).state == JobState.CANCELLED


@pytest.mark.parametrize("how", ["lapse", "release", "crash"])
def test_a_cancelled_job_is_not_started_again_whatever_becomes_of_its_worker(world, how):
    claim = world.submit_and_claim(1)
    cancel(world, claim.job_id)
    if how == "lapse":
        world.expire_lease(claim.job_id)
        world.sweep()
    elif how == "release":
        with world.sessions.begin() as session:
            release_job(session, claim)
    else:
        world.fail(claim, Reason.OUT_OF_MEMORY, retry=True)
    job = world.job(claim.job_id)
    assert (job.state, job.reason) == (JobState.CANCELLED, Reason.CANCELLED_BY_CALLER)


def test_what_is_published_cannot_be_cancelled(world):
    claim = world.submit_and_claim(1)
    world.finish(claim)
    with nothing_written(world), pytest.raises(TooLate, match="completed"):
        cancel(world, claim.job_id)


def test_only_a_failed_job_is_retried_and_then_has_all_its_tries(world):
    request = world.submit(1)
    claim = world.claim(request.targets[0].job.id)
    with nothing_written(world), pytest.raises(NotFailed, match="running"):
        retry(world, claim.job_id)
    world.fail(claim, Reason.WORKLOAD_FAILED)
    assert retry(world, claim.job_id).state == JobState.QUEUED
    job = world.job(claim.job_id)
    assert (job.reason, job.finished_at, job.attempt) == (None, None, 2)
    assert world.request(request.id).state == RequestState.SCHEDULED
    again = world.claim(claim.job_id)
    assert again.forget == frozenset(digests(1))
    world.finish(again)
    assert world.request(request.id).state == RequestState.COMPLETED


def test_a_retried_job_and_the_open_one_do_not_meet(world):
    failed = world.submit_and_claim(1)
    world.fail(failed, Reason.WORKLOAD_FAILED)
    later = world.submit(2, batch_window=timedelta(hours=1)).targets[0].job.id
    retry(world, failed.job_id)
    assert world.sweep().wake == [failed.job_id]
    assert world.job(later).state == JobState.QUEUED


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
