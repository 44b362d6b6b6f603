"""What is owed by law stays so after a failure, until it is served, withdrawn or dismissed; and what can be withdrawn when."""

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import func, update

from ledger import metrics
from ledger.errors import NotFailed, TooLate
from ledger.events.timeline import list_request_events
from ledger.jobs.approvals import refuse, set_approvals
from ledger.jobs.cancellation import retry_job
from ledger.jobs.checkpoints import record_checkpoint
from ledger.jobs.claims import lock_claimed_job
from ledger.jobs.jobs import samples_of_closed_job
from ledger.metrics import Due
from ledger.requests.cancellation import cancel_request, dismiss_request
from ledger.requests.deadlines import extend_deadline, mark_overdue
from ledger.requests.requests import list_requests
from ledger.states import JobState, Reason, RequestState
from ledger.tables import UnlearnRequest
from tests.ledger.conftest import IEU, digests, nothing_written
from tests.ledger.promises import broken
from tests.ledger.test_consistency import run_to_completion

LONG_AGO = datetime.now(UTC) - timedelta(days=60)


def cancel(world, request):
    with world.sessions.begin() as session:
        return cancel_request(session, tenant_id=world.tenant_id, request_id=request.id)


def dismiss(world, request, reason="Served by another request."):
    with world.sessions.begin() as session:
        return dismiss_request(session, tenant_id=world.tenant_id, request_id=request.id, reason=reason, by="key:dpo")


def retry(world, job_id):
    with world.sessions.begin() as session:
        return retry_job(session, tenant_id=world.tenant_id, job_id=job_id)


def ask_for_approval(world, **of):
    with world.sessions.begin() as session:
        set_approvals(session, tenant_id=world.tenant_id, model="small", by="key:admin", **of)


def failed(world, *numbers, **changes):
    """A request whose erasure has failed."""
    request = world.submit(*numbers, **changes)
    world.fail(world.claim(request.targets[0].job.id), Reason.AUDIT_FAILED)
    return request


def run_refused(world, *numbers, **changes):
    """A request whose job an approver did not let run."""
    ask_for_approval(world, jobs=True)
    request = world.submit(*numbers, **changes)
    world.claim(request.targets[0].job.id)
    with world.sessions.begin() as session:
        refuse(session, tenant_id=world.tenant_id, job_id=request.targets[0].job.id, by="key:dpo")
    return request


def listed(world, **conditions):
    with world.sessions() as session:
        found = list_requests(session, tenant_id=world.tenant_id, **conditions).items
    return [request.id for request in found]


def counts(world):
    """The unserved requests by state and due, without zeros."""
    with world.sessions() as session:
        return {key[1:]: count for key, count in metrics.unserved_requests(session).counts.items() if count}


@pytest.mark.parametrize("end", [failed, run_refused])
def test_what_ended_without_being_served_stays_owed_and_becomes_overdue(world, end):
    request = end(world, 1, received_at=LONG_AGO)
    assert world.request(request.id).unserved
    assert listed(world, overdue=True) == listed(world, unserved=True) == [request.id]
    assert listed(world, unserved=False) == listed(world, is_open=True) == []
    assert counts(world) == {("failed", Due.OVERDUE): 1}
    with world.sessions.begin() as session:
        assert mark_overdue(session) == 1


@pytest.mark.parametrize("end", [failed, run_refused])
@pytest.mark.parametrize("settle", [cancel, dismiss])
def test_it_is_owed_no_more_once_it_is_withdrawn_or_dismissed(world, end, settle):
    request = end(world, 1, received_at=LONG_AGO)
    assert not settle(world, request).unserved
    assert listed(world, overdue=True) == listed(world, unserved=True) == []
    assert counts(world) == {}
    with world.sessions() as session:
        assert metrics.unserved_requests(session).overdue == 0


def test_withdrawing_twice_changes_nothing(world):
    for request in (failed(world, 1), run_refused(world, 2)):
        assert cancel(world, request).state == RequestState.CANCELLED
        with nothing_written(world):
            cancel(world, request)


def test_a_dismissal_keeps_the_state_and_records_who_and_why(world):
    request = failed(world, 1)
    found = dismiss(world, request)
    assert (found.state, found.dismissed_by, found.dismissal_reason) == (
        RequestState.FAILED,
        "key:dpo",
        "Served by another request.",
    )
    assert found.dismissed_at is not None
    with world.sessions() as session:
        event = list_request_events(session, tenant_id=world.tenant_id, request_id=request.id)[-1]
    assert (event.kind, event.data) == (
        "request.dismissed",
        {"by": "key:dpo", "reason": "Served by another request."},
    )


def test_only_what_ended_and_is_still_owed_can_be_dismissed_and_only_once(world):
    waiting = world.submit(1, window=timedelta(hours=1))
    with nothing_written(world), pytest.raises(TooLate, match="cancel it"):
        dismiss(world, waiting)
    cancel(world, waiting)
    served = world.submit(2)
    world.finish(world.claim(served.targets[0].job.id))
    twice = failed(world, 3)
    dismiss(world, twice)
    for request in (waiting, served, twice):
        with nothing_written(world), pytest.raises(TooLate):
            dismiss(world, request)
    with nothing_written(world), pytest.raises(TooLate, match="dismissed"):
        cancel(world, twice)
    other = failed(world, 4)
    with nothing_written(world), pytest.raises(ValueError, match="reason"):
        dismiss(world, other, reason="  ")


@pytest.mark.parametrize("settle", [cancel, dismiss])
def test_a_retry_of_a_shared_job_leaves_out_who_left_it(world, settle):
    first = world.submit(1, 2, window=timedelta(hours=1))
    second = world.submit(2, 3, expedite=True)
    job_id = second.targets[0].job.id
    assert first.targets[0].job.id == job_id
    world.fail(world.claim(job_id), Reason.AUDIT_FAILED)
    settle(world, first)
    assert retry(world, job_id).samples == 2
    claim = world.claim(job_id)
    assert (claim.samples.forget, claim.requests) == (frozenset(digests(2, 3)), 1)
    world.finish(claim)
    assert not world.request(first.id).unserved
    assert world.request(second.id).state == RequestState.COMPLETED
    assert world.count("erased_samples") == 2


def wait_for_approval(world):
    """Two requests on a closed job that nobody has approved."""
    ask_for_approval(world, jobs=True)
    first, second = world.submit(1, 2, window=timedelta(hours=1)), world.submit(2, 3, expedite=True)
    assert world.claim(second.targets[0].job.id) is None
    return first, second


def wait_for_a_retry(world):
    """Two requests on a job that has run out of memory, and has saved a checkpoint."""
    first, second = world.submit(1, 2, window=timedelta(hours=1)), world.submit(2, 3, expedite=True)
    claim = world.claim(second.targets[0].job.id)
    with world.sessions.begin() as session:
        record_checkpoint(session, lock_claimed_job(session, claim), sha256="ab" * 32, step=3, total=9)
    world.fail(claim, Reason.OUT_OF_MEMORY, retry=True, first_wait=timedelta(minutes=1))
    return first, second


def wait_behind_another_job(world):
    """Two requests on a job that has closed while another job of the model runs."""
    world.submit_and_claim(9)
    first, second = (world.submit(*numbers, window=timedelta(hours=1)) for numbers in ((1, 2), (2, 3)))
    world.submit(8, method=IEU)  # closes it
    return first, second


@pytest.mark.parametrize("wait", [wait_for_approval, wait_for_a_retry, wait_behind_another_job])
def test_a_request_leaves_a_closed_job_that_waits_and_its_samples_are_not_erased(world, wait):
    first, second = wait(world)
    job_id = second.targets[0].job.id
    assert first.targets[0].job.id == job_id
    assert world.job(job_id).samples == 3
    found = cancel(world, first)
    assert (found.state, found.targets[0].job) == (RequestState.CANCELLED, None)
    with nothing_written(world):
        cancel(world, first)
    job = world.job(job_id)
    assert (job.samples, job.requests) == (2, 1)
    run_to_completion(world)
    assert world.request(second.id).state == RequestState.COMPLETED
    assert world.count("erased_samples", f"job_id = '{job_id}'") == 2
    left = samples_of_closed_job(job_id)
    with world.sessions() as session:
        assert {digest for _, digest in session.execute(left)} == set(digests(2, 3))
        assert broken(session) == []


def test_a_waiting_job_that_the_last_request_leaves_is_cancelled(world):
    first, second = wait_for_a_retry(world)
    cancel(world, first)
    assert cancel(world, second).state == RequestState.CANCELLED
    assert world.job(second.targets[0].job.id).state == JobState.CANCELLED


@pytest.mark.parametrize("doing", ["is running", "has made a version, which awaits approval,"])
def test_a_request_cannot_leave_a_job_of_others_that_runs_or_whose_version_awaits_approval(world, doing):
    first, second = world.submit(1, models=["small", "large"]), world.submit(2)
    claim = world.claim(second.targets[0].job.id)
    if "version" in doing:
        ask_for_approval(world, versions=True)
        world.finish(claim)
    with nothing_written(world), pytest.raises(TooLate, match=f"the job {doing} and serves other requests too"):
        cancel(world, first)
    assert {target.state for target in world.request(first.id).targets} > {RequestState.SCHEDULED}


@pytest.mark.parametrize("settle", [cancel, dismiss])
def test_a_job_that_nobody_asks_for_any_more_is_not_retried(world, settle):
    request = failed(world, 1)
    settle(world, request)
    with nothing_written(world), pytest.raises(NotFailed, match="withdrawn or dismissed"):
        retry(world, request.targets[0].job.id)


def test_a_dismissal_waits_for_a_retry_and_then_comes_too_late(world):
    request = failed(world, 1)
    with ThreadPoolExecutor(1) as other, world.sessions.begin() as session:
        retry_job(session, tenant_id=world.tenant_id, job_id=request.targets[0].job.id)
        dismissal = other.submit(dismiss, world, request)
        world.await_lock("the dismissal to wait")
        session.commit()
        with pytest.raises(TooLate, match="scheduled"):
            dismissal.result(30)
    assert world.request(request.id).dismissed_at is None


def test_a_request_that_failed_for_one_model_can_be_withdrawn_while_the_other_has_erased_it(world):
    request = world.submit(1, models=["small", "large"])
    jobs = {target.model: target.job.id for target in request.targets}
    world.finish(world.claim(jobs["large"]))
    world.fail(world.claim(jobs["small"]), Reason.AUDIT_FAILED)
    found = cancel(world, request)
    states = {target.model: target.state for target in found.targets}
    assert states == {"small": RequestState.CANCELLED, "large": RequestState.COMPLETED}
    assert (found.state, found.unserved) == (RequestState.CANCELLED, False)
    assert world.job(jobs["small"]).state == JobState.FAILED


def test_the_deadline_of_a_failed_request_can_be_extended(world):
    request = failed(world, 1)
    with world.sessions.begin() as session:
        found = extend_deadline(session, tenant_id=world.tenant_id, request_id=request.id, reason="Many models.")
    assert found.due_at > request.due_at
    cancelled = cancel(world, world.submit(2, window=timedelta(hours=1)))
    with pytest.raises(TooLate), world.sessions.begin() as session:
        extend_deadline(session, tenant_id=world.tenant_id, request_id=cancelled.id, reason="Many models.")


def test_every_failure_is_counted_and_a_retry_takes_none_back(world):
    request = failed(world, 1)
    retry(world, request.targets[0].job.id)
    with world.sessions() as session:
        assert sorted(metrics.failed_jobs(session)) == [("hospital", "large", 0, 0), ("hospital", "small", 1, 0)]
    world.fail(world.claim(request.targets[0].job.id), Reason.UNEXPECTED)
    failed(world, 2)
    with world.sessions() as session:
        assert ("hospital", "small", 3, 2) in metrics.failed_jobs(session)
    cancel(world, request)
    with world.sessions() as session:
        assert ("hospital", "small", 3, 1) in metrics.failed_jobs(session)


def test_requests_are_counted_once_each_by_when_they_are_due(world):
    earliest = world.submit(50, models=["large"], received_at=LONG_AGO).due_at
    for number, hours in enumerate((-1, 71, 73, 169), start=1):
        request = world.submit(number, window=timedelta(hours=1))
        with world.sessions.begin() as session:
            due_at = func.clock_timestamp() + timedelta(hours=hours)
            session.execute(update(UnlearnRequest).where(UnlearnRequest.id == request.id).values(due_at=due_at))
    assert counts(world) == {
        ("open", Due.OVERDUE): 2,
        ("open", Due.WITHIN_72H): 1,
        ("open", Due.WITHIN_7D): 1,
        ("open", Due.LATER): 1,
    }
    with world.sessions() as session:
        assert metrics.unserved_requests(session).earliest == earliest
