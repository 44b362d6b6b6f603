import threading
from datetime import timedelta

import pytest
from sqlalchemy import text

from ledger.errors import StaleClaim
from ledger.events.timeline import list_job_events
from ledger.jobs import claims
from ledger.jobs.attempts import MAX_RETRY_WAIT
from ledger.jobs.claims import lock_claimed_job
from ledger.jobs.jobs import list_attempts
from ledger.states import AttemptOutcome, JobState, Phase, Reason, RequestState
from tests.ledger.conftest import IEU, LEASE, LTU, RETRY_RULE, WEIGHTS, digests, nothing_written, progress, publish

WRITES = {
    "lock": lock_claimed_job,
    "publish": publish,
}
"""Every other write takes a `ClaimedJob`, which `lock_claimed_job` alone gives; `publish` stands for them."""


@pytest.fixture(params=WRITES)
def write(request):
    return WRITES[request.param]


def refused(world, claim, write):
    with nothing_written(world), pytest.raises(StaleClaim), world.sessions.begin() as session:
        write(session, claim)


def test_the_timeline_says_on_how_many_processes_a_job_runs(world):
    claim = world.submit_and_claim(1)
    with world.sessions.begin() as session:
        claims.record_processes(session, lock_claimed_job(session, claim), processes=4, hosts=2)
        said = [event.text for event in list_job_events(session, tenant_id=world.tenant_id, job_id=claim.job_id)]
    assert said[-1] == "It runs on several processes: 4 a host; hosts: 2."


def test_a_claim_tells_the_worker_all_it_needs(world):
    claim = world.submit_and_claim(1, 2, 90)
    assert claim.attempt == 1
    assert (claim.model, claim.dataset, claim.workload) == ("small", "digits", "examples.digits:workload")
    assert (claim.base_version, claim.weights_path, claim.weights_sha256) == (1, "first.safetensors", WEIGHTS)
    assert (claim.samples.forget, claim.samples.erased) == (frozenset(digests(1, 2)), frozenset())
    assert (claim.method, claim.policy, claim.policy_index, claim.origin) == (LTU, (LTU, IEU), 0, "policy")
    assert (claim.requests, claim.regulations, claim.details) == (1, ("gdpr",), {"training_seconds": 12.5})
    job = world.job(claim.job_id)
    assert (job.state, job.phase, job.base_version) == (JobState.RUNNING, Phase.LOAD, 1)


def test_a_second_delivery_does_nothing(world):
    claim = world.submit_and_claim(1)
    with nothing_written(world):
        assert world.claim(claim.job_id) is None
    world.finish(claim)
    with nothing_written(world):
        assert world.claim(claim.job_id) is None


def test_a_message_for_a_job_that_never_was_does_nothing(world):
    assert world.claim(world.tenant_id) is None


def test_of_many_workers_one_gets_the_job(world):
    job_id = world.submit(1).targets[0].job.id
    assert len([claim for claim in at_once(world, [job_id] * 8) if claim]) == 1


def test_of_two_jobs_of_one_model_one_runs(world):
    jobs = [world.submit(1, method=LTU).targets[0].job.id, world.submit(2, method=IEU).targets[0].job.id]
    taken = [claim for claim in at_once(world, jobs * 4) if claim]
    assert len(taken) == 1
    assert world.sweep().wake == []
    world.finish(taken[0])
    (waiting,) = set(jobs) - {taken[0].job_id}
    assert world.sweep().wake == [waiting]
    assert world.claim(waiting).base_version == 2


def at_once(world, jobs):
    claimed, ready = [], threading.Barrier(len(jobs))

    def take(job_id):
        ready.wait()
        claimed.append(world.claim(job_id))

    threads = [threading.Thread(target=take, args=(job_id,)) for job_id in jobs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(claimed) == len(jobs)
    return claimed


def test_two_models_run_at_once(world):
    request = world.submit(1, models=None)
    assert sorted(world.sweep().wake) == sorted(target.job.id for target in request.targets)
    assert all(world.claim(target.job.id) for target in request.targets)


def test_an_expired_lease_takes_every_right_to_write(world, write):
    claim = world.submit_and_claim(1)
    world.expire_lease(claim.job_id)
    refused(world, claim, write)


def test_a_worker_that_wakes_up_after_the_sweep_can_write_nothing(world, write):
    claim = world.submit_and_claim(1)
    world.expire_lease(claim.job_id)
    world.sweep()
    refused(world, claim, write)


def test_a_worker_that_wakes_up_after_another_took_over_can_write_nothing(world, write):
    old = world.submit_and_claim(1)
    world.expire_lease(old.job_id)
    world.sweep()
    new = world.claim(old.job_id, worker="another")
    assert new.attempt == old.attempt + 1
    world.verify(new)
    refused(world, old, write)
    world.publish(new)


def test_after_its_result_a_claim_is_over(world, write):
    claim = world.submit_and_claim(1)
    world.finish(claim)
    refused(world, claim, write)


def test_renewing_keeps_the_lease(world):
    claim = world.submit_and_claim(1)
    with world.sessions.begin() as session:
        assert not claims.renew_lease(session, lock_claimed_job(session, claim), lease=LEASE * 10).cancel_requested
    assert world.sweep().expired == []
    assert world.count("jobs", "lease_until > clock_timestamp() + interval '9 minutes'") == 1


def test_progress_shows_and_a_new_phase_is_an_event(world):
    claim = world.submit_and_claim(1)
    for step in (3, 4):
        with world.sessions.begin() as session:
            progress(session, claim, step=step, metrics={"loss": 0.5}, timings={"load": 1.0, "unlearn": 0.5})
    job = world.job(claim.job_id)
    assert (job.phase, job.progress, job.step, job.total, job.eta_seconds) == (Phase.UNLEARN, 0.3, 4, 10, 7.0)
    assert (job.metrics, job.timings) == ({"loss": 0.5}, {"load": 1.0, "unlearn": 0.5})
    with world.sessions() as session:
        events = list_job_events(session, tenant_id=world.tenant_id, job_id=claim.job_id)
    assert [event.data for event in events if event.kind == "job.phase"] == [{"phase": "unlearn"}]


def test_every_change_of_a_job_can_be_seen_from_outside(world):
    claim = world.submit_and_claim(1)
    before = world.job(claim.job_id).updated_at
    with world.sessions.begin() as session:
        progress(session, claim)
    assert world.job(claim.job_id).updated_at > before


def test_an_expired_lease_puts_the_job_back_into_the_queue(world):
    request = world.submit(1)
    claim = world.claim(request.targets[0].job.id)
    world.expire_lease(claim.job_id)
    swept = world.sweep()
    assert (swept.expired, swept.wake) == ([claim.job_id], [claim.job_id])
    job = world.job(claim.job_id)
    assert (job.state, job.attempt, job.phase, job.progress) == (JobState.QUEUED, 2, Phase.WAITING, 0)
    assert world.request(request.id).state == RequestState.SCHEDULED
    assert attempts(world, claim) == [(1, AttemptOutcome.EXPIRED, Reason.WORKER_LOST)]
    with world.sessions() as session:
        assert "worker lost" in list_job_events(session, tenant_id=world.tenant_id, job_id=claim.job_id)[-1].text


def test_a_job_whose_worker_dies_over_the_audit_goes_back_too(world):
    claim = world.submit_and_claim(1)
    world.verify(claim)
    world.expire_lease(claim.job_id)
    assert world.sweep().expired == [claim.job_id]
    assert world.job(claim.job_id).state == JobState.QUEUED


def test_a_job_whose_workers_keep_dying_fails_within_a_bound(world):
    request = world.submit(1)
    job_id = request.targets[0].job.id
    for _ in range(3):
        assert world.claim(job_id)
        world.expire_lease(job_id)
        world.sweep(max_tries=3)
    job = world.job(job_id)
    assert (job.state, job.reason, job.attempt) == (JobState.FAILED, Reason.ATTEMPTS_EXHAUSTED, 3)
    assert world.claim(job_id) is None
    target = world.request(request.id).targets[0]
    assert (target.state, target.reason) == (RequestState.FAILED, Reason.ATTEMPTS_EXHAUSTED)


def test_a_sweep_of_a_quiet_ledger_changes_nothing(world):
    world.submit_and_claim(1)
    with nothing_written(world):
        assert world.sweep().expired == []


def test_two_sweeps_at_once_take_an_expired_job_back_once(world):
    claim = world.submit_and_claim(1)
    world.expire_lease(claim.job_id)
    with world.sessions.begin() as session:
        assert claims.sweep(session, rule=RETRY_RULE).expired == [claim.job_id]
        assert world.sweep().expired == []
    assert world.job(claim.job_id).attempt == 2


def test_a_worker_that_is_shut_down_gives_the_job_back_without_losing_a_try(world):
    claim = world.submit_and_claim(1)
    for attempt in range(1, 6):
        with world.sessions.begin() as session:
            claims.release_job(session, lock_claimed_job(session, claim))
        assert world.job(claim.job_id).state == JobState.QUEUED
        claim = world.claim(claim.job_id)
        assert claim.attempt == attempt + 1
    world.finish(claim)


def attempts(world, claim):
    with world.sessions() as session:
        views = list_attempts(session, tenant_id=world.tenant_id, job_id=claim.job_id)
    return [(view.number, view.outcome, view.reason) for view in views]


def test_a_lease_from_before_the_clock_stepped_back_is_cut_to_the_longest_there_is(world):
    """The database's clock has stepped back by a day: the dead worker's lease would have lasted as long."""
    claim = world.submit_and_claim(1)
    with world.sessions.begin() as session:
        session.execute(text("UPDATE jobs SET lease_until = lease_until + interval '1 day'"))
    assert world.sweep(max_lease=2 * LEASE).expired == []
    with world.sessions() as session:
        left = session.scalar(text("SELECT lease_until - clock_timestamp() FROM jobs"))
    assert timedelta(0) < left <= 2 * LEASE
    world.expire_lease(claim.job_id)
    assert world.sweep(max_lease=2 * LEASE).expired == [claim.job_id]


def test_a_wait_from_before_the_clock_stepped_back_is_cut_to_the_longest_there_is(world):
    claim = world.submit_and_claim(1)
    world.fail(claim, Reason.UNEXPECTED, retry=True, first_wait=timedelta(seconds=30))
    with world.sessions.begin() as session:
        session.execute(text("UPDATE jobs SET retry_at = retry_at + interval '1 day'"))
    assert world.sweep().wake == []
    with world.sessions() as session:
        left = session.scalar(text("SELECT retry_at - clock_timestamp() FROM jobs"))
    assert timedelta(0) < left <= MAX_RETRY_WAIT


def test_a_job_opened_before_the_clock_stepped_back_closes_now(world):
    job_id = world.submit(1, window=timedelta(hours=1)).targets[0].job.id
    assert world.sweep().wake == []
    with world.sessions.begin() as session:
        moved = "created_at = created_at + interval '1 day', cut_off = cut_off + interval '1 day'"
        session.execute(text(f"UPDATE jobs SET {moved}"))
    assert world.sweep().wake == [job_id]
    assert world.claim(job_id) is not None
