from datetime import timedelta

import pytest

from ledger.errors import NotFailed, TooLate
from ledger.events.timeline import list_model_events
from ledger.jobs.cancellation import cancel_job, retry_job
from ledger.jobs.claims import lock_claimed_job, release_job, renew_lease
from ledger.registry.models import lock_model, set_policy
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
    with nothing_written(world), pytest.raises(NotFailed, match="this one is cancelled"):
        retry(world, job_id)


@pytest.mark.parametrize("asked", [None, {"kind": "ieu"}])
def test_a_retry_tries_the_models_policy_as_it_is_then(world, asked):
    claim = world.claim(world.submit(1, method=asked).targets[0].job.id)
    world.fail(claim, Reason.AUDIT_FAILED)
    with world.sessions.begin() as session:
        row = lock_model(session, tenant_id=world.tenant_id, name="small")
        set_policy(
            session, row, [{"kind": "matching"}, {"kind": "ieu", "epochs": 2}, {"kind": "retrain"}], by="operator"
        )
    assert retry(world, claim.job_id).method == (asked or {"kind": "matching"})
    following = world.claim(claim.job_id)
    left = [{"kind": "retrain"}] if asked else [{"kind": "ieu", "epochs": 2}, {"kind": "retrain"}]
    assert list(following.policy[1:]) == left
    with world.sessions() as session:
        (event,) = list_model_events(session, tenant_id=world.tenant_id, model="small")
    assert event.text == "operator set which methods are tried, in this order: matching, IEU, retrain."
    assert event.data["policy"][1] == {"kind": "ieu", "epochs": 2}


def test_a_running_job_is_cancelled_by_its_worker(world):
    claim = world.submit_and_claim(1)
    assert cancel(world, claim.job_id).cancel_requested
    with nothing_written(world):
        cancel(world, claim.job_id)
    with world.sessions.begin() as session:
        assert renew_lease(session, lock_claimed_job(session, claim), lease=LEASE).cancel_requested
    world.fail(claim, Reason.CANCELLED_BY_CALLER)
    assert world.job(claim.job_id).state == JobState.CANCELLED


@pytest.mark.parametrize("how", ["expiry", "release", "crash"])
def test_a_cancelled_job_is_not_started_again_whatever_becomes_of_its_worker(world, how):
    claim = world.submit_and_claim(1)
    cancel(world, claim.job_id)
    if how == "expiry":
        world.expire_lease(claim.job_id)
        world.sweep()
    elif how == "release":
        with world.sessions.begin() as session:
            release_job(session, lock_claimed_job(session, claim))
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
    with nothing_written(world), pytest.raises(NotFailed, match="this one is running"):
        retry(world, claim.job_id)
    world.fail(claim, Reason.WORKLOAD_FAILED)
    assert retry(world, claim.job_id).state == JobState.QUEUED
    job = world.job(claim.job_id)
    assert (job.reason, job.finished_at, job.attempt) == (None, None, 2)
    assert world.request(request.id).state == RequestState.SCHEDULED
    again = world.claim(claim.job_id)
    assert again.samples.forget == frozenset(digests(1))
    world.finish(again)
    assert world.request(request.id).state == RequestState.COMPLETED


def test_a_retried_job_and_the_open_one_do_not_meet(world):
    failed = world.submit_and_claim(1)
    world.fail(failed, Reason.WORKLOAD_FAILED)
    later = world.submit(2, window=timedelta(hours=1)).targets[0].job.id
    retry(world, failed.job_id)
    assert world.sweep().wake == [failed.job_id]
    assert world.job(later).state == JobState.QUEUED
