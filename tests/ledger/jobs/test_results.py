from uuid import uuid4

import pytest

from ledger.errors import IllegalMove, JobCancelled, StaleClaim, UnknownReport
from ledger.events.timeline import list_job_events
from ledger.jobs import results
from ledger.jobs.cancellation import cancel_job
from ledger.jobs.jobs import list_attempts
from ledger.jobs.reports import get_report
from ledger.registry.access import ensure_tenant
from ledger.registry.models import get_model, list_versions
from ledger.states import AttemptOutcome, JobState, Phase, Reason, RequestState, Verdict, VersionKind
from report.document import read
from tests.ledger.conftest import IEU, LTU, digests, nothing_written, progress, publish


def escalate(world, claim, **more):
    with world.sessions.begin() as session:
        return results.escalate(session, claim, method=IEU, finding={"verdict": "inconclusive"}, **more)


def test_publishing_writes_version_report_erased_samples_and_states_together(world):
    request = world.submit(1, 2)
    claim = world.claim(request.targets[0].job.id)
    published = world.finish(claim)
    assert (published.version_number, published.samples) == (2, 2)
    with world.sessions() as session:
        model = get_model(session, tenant_id=world.tenant_id, name="small")
        report = get_report(session, tenant_id=world.tenant_id, report_id=published.report_id)
    assert (model.version.number, model.version.kind, model.erased_samples) == (2, VersionKind.UNLEARNED, 2)
    assert (model.version.id, model.version.report_id) == (published.version_id, published.report_id)
    job = world.job(claim.job_id)
    assert (job.report_id, job.verdict) == (report.id, Verdict.VERIFIED)
    assert (job.state, job.phase, job.progress, job.version) == (JobState.COMPLETED, Phase.DONE, 1.0, 2)
    target = world.request(request.id).targets[0]
    assert (target.state, target.version, target.report_id) == (RequestState.COMPLETED, 2, published.report_id)
    assert target.verdict == Verdict.VERIFIED


def test_what_is_published_is_published_once(world):
    claim = world.submit_and_claim(1)
    world.finish(claim)
    with nothing_written(world), pytest.raises(StaleClaim):
        world.publish(claim)


def test_a_publication_that_breaks_off_leaves_nothing(world):
    claim = world.submit_and_claim(1)
    world.verify(claim)
    with nothing_written(world), world.sessions() as session:
        publish(session, claim)
        session.rollback()
    world.publish(claim)


def test_nothing_is_published_before_the_audit(world):
    claim = world.submit_and_claim(1)
    with nothing_written(world), pytest.raises(IllegalMove):
        world.publish(claim)


def test_the_report_comes_back_as_it_went_in(world):
    published = world.finish(world.submit_and_claim(1))
    with world.sessions() as session:
        report = get_report(session, tenant_id=world.tenant_id, report_id=published.report_id)
    assert read(report.body).sha256 == report.sha256
    assert list(report.body) == sorted(report.body)


def test_a_report_is_its_tenants_own(world):
    published = world.finish(world.submit_and_claim(1))
    with world.sessions.begin() as session:
        for tenant_id, report_id in (
            (ensure_tenant(session, "bank"), published.report_id),
            (world.tenant_id, uuid4()),
        ):
            with pytest.raises(UnknownReport):
                get_report(session, tenant_id=tenant_id, report_id=report_id)


def test_the_next_job_starts_from_the_newest_version_and_knows_all_that_was_ever_forgotten(world):
    world.finish(world.submit_and_claim(1, 2))
    world.finish(world.submit_and_claim(3))
    third = world.submit_and_claim(2, 4)
    assert (third.base_version, third.weights_path) == (3, "cdcd.safetensors")
    assert third.forget == frozenset(digests(4))
    assert third.erased == frozenset(digests(1, 2, 3))
    with world.sessions() as session:
        assert [v.number for v in list_versions(session, tenant_id=world.tenant_id, model="small")] == [3, 2, 1]


def test_a_job_whose_samples_an_earlier_one_erased_is_completed_without_a_run(world):
    first = world.claim(world.submit(1).targets[0].job.id)
    later = world.submit(1)
    world.finish(first)
    assert world.claim(later.targets[0].job.id) is None
    after = world.request(later.id)
    assert (after.state, after.targets[0].reason) == (RequestState.COMPLETED, Reason.SUPERSEDED)
    assert world.job(later.targets[0].job.id).state == JobState.COMPLETED
    assert world.sweep().wake == []


def test_escalating_goes_on_under_the_same_lease_with_the_next_method(world):
    claim = world.submit_and_claim(1)
    world.verify(claim)
    following = escalate(world, claim)
    assert (following.attempt, following.method, following.policy_index, following.origin) == (2, IEU, 1, "policy")
    assert world.job(claim.job_id).state == JobState.RUNNING
    with nothing_written(world), pytest.raises(StaleClaim):
        world.verify(claim)
    world.finish(following)
    with world.sessions() as session:
        first, second = list_attempts(session, tenant_id=world.tenant_id, job_id=claim.job_id)
    assert (first.outcome, first.finding) == (AttemptOutcome.ESCALATED, {"verdict": "inconclusive"})
    assert (second.outcome, second.method) == (AttemptOutcome.PUBLISHED, IEU)


def test_a_method_that_is_refused_escalates_before_any_audit(world):
    following = escalate(world, world.submit_and_claim(1))
    world.finish(following)


def test_each_attempt_keeps_its_own_time_of_what_the_claim_has_taken(world):
    claim = world.submit_and_claim(1)
    with world.sessions.begin() as session:
        progress(session, claim, timings={"load": 1.0, "unlearn": 2.5})
    following = escalate(world, claim, timings={"load": 1.0, "unlearn": 3.0})
    with world.sessions.begin() as session:
        progress(session, following, timings={"load": 1.0, "unlearn": 3.5})
        first, second = list_attempts(session, tenant_id=world.tenant_id, job_id=claim.job_id)
    assert (first.timings, second.timings) == ({"load": 1.0, "unlearn": 3.0}, {"load": 0.0, "unlearn": 0.5})
    assert world.job(claim.job_id).timings == {"load": 1.0, "unlearn": 3.5}


def test_after_a_crash_the_job_goes_on_with_the_method_it_had_come_to_and_has_all_its_tries(world):
    following = escalate(world, world.submit_and_claim(1))
    for _ in range(2):
        world.expire_lease(following.job_id)
        world.sweep(max_attempts=3)
        again = world.claim(following.job_id)
        assert (again.method, again.policy_index) == (IEU, 1)
    world.expire_lease(following.job_id)
    world.sweep(max_attempts=3)
    assert world.job(following.job_id).reason == Reason.ATTEMPTS_EXHAUSTED


def test_a_failure_shows_its_reason_and_the_next_request_starts_afresh(world):
    request = world.submit(1)
    claim = world.claim(request.targets[0].job.id)
    world.fail(claim, Reason.WEIGHTS_DAMAGED)
    job = world.job(claim.job_id)
    assert (job.state, job.reason, job.detail) == (JobState.FAILED, Reason.WEIGHTS_DAMAGED, "as the test wants")
    assert world.request(request.id).targets[0].reason == Reason.WEIGHTS_DAMAGED
    assert world.submit_and_claim(1).base_version == 1


def test_a_failure_that_may_pass_is_tried_again_within_a_bound(world):
    claim = world.submit_and_claim(1)
    for attempt in (1, 2):
        assert claim.attempt == attempt
        world.fail(claim, Reason.OUT_OF_MEMORY, retry=True, max_attempts=3)
        assert world.job(claim.job_id).state == JobState.QUEUED
        claim = world.claim(claim.job_id)
    world.fail(claim, Reason.OUT_OF_MEMORY, retry=True, max_attempts=3)
    job = world.job(claim.job_id)
    assert (job.state, job.reason) == (JobState.FAILED, Reason.OUT_OF_MEMORY)


def test_one_models_failure_does_not_hide_that_the_other_is_erased(world):
    request = world.submit(1, models=None)
    large, small = (world.claim(target.job.id) for target in request.targets)
    world.fail(large, Reason.DISK_FULL)
    assert world.request(request.id).state == RequestState.RUNNING
    world.finish(small)
    after = world.request(request.id)
    assert after.state == RequestState.FAILED
    assert {t.model: (t.state, t.version, t.reason) for t in after.targets} == {
        "large": (RequestState.FAILED, None, Reason.DISK_FULL),
        "small": (RequestState.COMPLETED, 2, None),
    }


def test_cancelling_before_the_result_leaves_the_served_model(world):
    claim = world.submit_and_claim(1)
    world.verify(claim)
    with world.sessions.begin() as session:
        cancel_job(session, tenant_id=world.tenant_id, job_id=claim.job_id)
    with nothing_written(world), pytest.raises(JobCancelled):
        world.publish(claim)
    world.fail(claim, Reason.CANCELLED_BY_CALLER)
    assert world.job(claim.job_id).state == JobState.CANCELLED
    assert world.count("model_versions", "number > 1") == world.count("reports") == world.count("erased_samples") == 0


def test_the_timeline_tells_the_whole_story(world):
    claim = world.submit_and_claim(1)
    world.finish(claim)
    with world.sessions() as session:
        events = list_job_events(session, tenant_id=world.tenant_id, job_id=claim.job_id)
    assert [event.kind for event in events] == [
        "job.opened",
        "job.joined",
        "job.frozen",
        "job.running",
        "job.verifying",
        "job.published",
        "job.completed",
    ]
    assert (events[3].data["attempt"], events[3].data["method"]) == (1, "ltu")
    assert (events[5].data["version"], events[5].data["verdict"]) == (2, "verified")
    with world.sessions() as session:
        rest = list_job_events(session, tenant_id=world.tenant_id, job_id=claim.job_id, after=events[4].id, limit=1)
    assert rest == [events[5]]


def test_the_method_of_the_request_comes_first(world):
    claim = world.submit_and_claim(1, method=LTU | {"rate": 0.5})
    assert (claim.method["rate"], claim.origin) == (0.5, "request")
