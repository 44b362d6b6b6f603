from datetime import timedelta

import pytest
from sqlalchemy import text

from ledger.errors import ModelBusy, NotAwaiting, StaleClaim, VersionRefused
from ledger.events.outbox import delete_sent_wakeups, take_wakeups
from ledger.events.timeline import list_job_events
from ledger.jobs import cancellation
from ledger.jobs.approvals import approve, refuse, set_approvals
from ledger.registry.models import get_model
from ledger.registry.versions import promote
from ledger.states import JobState, Phase, Reason, RequestState
from tests.ledger.conftest import IEU


def need(world, **what):
    with world.sessions.begin() as session:
        return set_approvals(session, tenant_id=world.tenant_id, model="small", by="key:admin", **what)


def decide(world, how, job_id):
    with world.sessions.begin() as session:
        return how(session, tenant_id=world.tenant_id, job_id=job_id, by="key:dpo")


def woken(world):
    with world.sessions.begin() as session:
        taken = take_wakeups(session)
        delete_sent_wakeups(session, taken)
        return [wakeup.job_id for wakeup in taken]


def events(world, job_id, kind):
    """The data of a job's events of one kind."""
    with world.sessions() as session:
        found = list_job_events(session, tenant_id=world.tenant_id, job_id=job_id)
        return [dict(event.data) for event in found if event.kind == kind]


def served(world):
    with world.sessions() as session:
        return get_model(session, tenant_id=world.tenant_id, name="small").version.number


def awaiting_version(world):
    """A job whose version waits for approval."""
    need(world, versions=True)
    request = world.submit(1)
    world.finish(world.claim(request.targets[0].job.id))
    return request, request.targets[0].job.id


def test_nothing_needs_approval_by_default(world):
    world.finish(world.submit_and_claim(1))
    assert served(world) == 2


def test_a_job_that_needs_approval_closes_and_awaits_it_once(world):
    need(world, jobs=True)
    job_id = world.submit(1).targets[0].job.id
    assert world.claim(job_id) is None
    assert world.claim(job_id) is None
    job = world.job(job_id)
    assert (job.state, job.phase, job.samples) == (JobState.AWAITING_APPROVAL, Phase.WAITING, 1)
    assert [event["what"] for event in events(world, job_id, "job.awaiting_approval")] == ["run"]
    assert world.sweep().wake == []
    assert world.submit(2).targets[0].job.id != job_id  # a closed job takes no more requests


def test_an_approved_job_is_woken_and_runs_with_who_and_when_on_its_timeline(world):
    need(world, jobs=True)
    job_id = world.submit(1).targets[0].job.id
    world.claim(job_id)
    woken(world)
    job = decide(world, approve, job_id)
    assert (job.state, job.approved_by) == (JobState.QUEUED, "key:dpo")
    assert woken(world) == [job_id]
    claim = world.claim(job_id)
    assert events(world, job_id, "job.approved") == [{"by": "key:dpo", "what": "run"}]
    world.expire_lease(job_id)
    world.sweep()
    world.finish(world.claim(job_id))  # approved once, for all its attempts
    with pytest.raises(StaleClaim):
        world.publish(claim)


def test_the_legal_clock_runs_on_while_a_job_waits(world):
    need(world, jobs=True)
    request = world.submit(1)
    world.claim(request.targets[0].job.id)
    with world.sessions.begin() as session:
        session.execute(text("UPDATE unlearn_requests SET due_at = clock_timestamp() - interval '1 day'"))
    assert world.request(request.id).state == RequestState.SCHEDULED
    assert world.count("unlearn_requests", "finished_at IS NULL AND due_at < clock_timestamp()") == 1


def test_a_job_past_its_closing_time_can_be_approved_before_a_worker_claims_it(world):
    need(world, jobs=True)
    job_id = world.submit(1).targets[0].job.id
    assert decide(world, approve, job_id).samples == 1
    assert world.claim(job_id) is not None


def test_a_job_that_still_takes_requests_cannot_be_approved(world):
    need(world, jobs=True)
    job_id = world.submit(1, window=timedelta(hours=1)).targets[0].job.id
    with pytest.raises(NotAwaiting):
        decide(world, approve, job_id)


def test_a_refused_job_is_cancelled_with_its_requests(world):
    need(world, jobs=True)
    request = world.submit(1)
    job_id = request.targets[0].job.id
    world.claim(job_id)
    assert decide(world, refuse, job_id).state == JobState.CANCELLED
    target = world.request(request.id).targets[0]
    assert (target.state, target.reason) == (RequestState.CANCELLED, Reason.APPROVAL_REFUSED)
    for how in (approve, refuse):
        with pytest.raises(NotAwaiting):
            decide(world, how, job_id)


def test_what_need_not_be_approved_any_more_is_let_run(world):
    need(world, jobs=True)
    job_id = world.submit(1).targets[0].job.id
    world.claim(job_id)
    woken(world)
    need(world, jobs=False)
    assert woken(world) == [job_id]
    assert world.claim(job_id) is not None


def test_nothing_to_erase_needs_no_approval(world):
    need(world, jobs=True)
    first = world.submit(1).targets[0].job.id
    second = world.submit(1, method=IEU).targets[0].job.id
    world.claim(first)
    world.claim(second)
    decide(world, approve, first)
    world.finish(world.claim(first))
    decide(world, approve, second)
    assert world.claim(second) is None
    assert world.job(second).reason == Reason.SUPERSEDED


def test_a_version_that_needs_approval_is_there_with_its_report_and_not_served(world):
    request, job_id = awaiting_version(world)
    job = world.job(job_id)
    assert (job.state, job.phase, job.version) == (JobState.AWAITING_APPROVAL, Phase.PUBLISH, 2)
    assert job.report_id is not None
    assert served(world) == 1
    assert world.request(request.id).state == RequestState.VERIFYING
    assert world.count("erased_samples") == 0
    assert world.sweep().expired == []


def test_while_a_version_waits_no_other_job_of_the_model_starts_and_none_is_promoted(world):
    _, job_id = awaiting_version(world)
    waiting = world.submit(2).targets[0].job.id
    assert world.claim(waiting) is None
    with pytest.raises(ModelBusy), world.sessions.begin() as session:
        promote(session, tenant_id=world.tenant_id, model="small", number=2, by="key:x")
    woken(world)
    decide(world, approve, job_id)
    assert woken(world) == [waiting]
    assert world.claim(waiting).base_version == 2


def test_an_approved_version_is_served_and_its_requests_are_done(world):
    request, job_id = awaiting_version(world)
    job = decide(world, approve, job_id)
    assert (job.state, job.phase) == (JobState.COMPLETED, Phase.DONE)
    assert served(world) == 2
    assert world.request(request.id).state == RequestState.COMPLETED
    assert world.count("erased_samples") == 1
    assert events(world, job_id, "job.approved") == [{"by": "key:dpo", "what": "version", "version": 2}]


def test_a_refused_version_is_never_served_and_its_samples_are_still_to_be_erased(world):
    request, job_id = awaiting_version(world)
    job = decide(world, refuse, job_id)
    assert (job.state, job.reason) == (JobState.FAILED, Reason.APPROVAL_REFUSED)
    assert world.request(request.id).state == RequestState.FAILED
    assert (served(world), world.count("erased_samples")) == (1, 0)
    with pytest.raises(VersionRefused), world.sessions.begin() as session:
        promote(session, tenant_id=world.tenant_id, model="small", number=2, by="key:x")
    with pytest.raises(VersionRefused), world.sessions.begin() as session:
        cancellation.retry_job(session, tenant_id=world.tenant_id, job_id=job_id)
    again = world.submit_and_claim(1)
    assert (again.base_version, again.next_version) == (1, 3)


def test_a_job_cancelled_while_its_version_waits_leaves_the_served_model(world):
    _, job_id = awaiting_version(world)
    with world.sessions.begin() as session:
        assert cancellation.cancel_job(session, tenant_id=world.tenant_id, job_id=job_id).state == JobState.CANCELLED
    assert (served(world), world.count("model_versions", "refused_at IS NOT NULL")) == (1, 1)
