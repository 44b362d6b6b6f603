from datetime import timedelta
from uuid import uuid4

import pytest
from sqlalchemy import text

from ledger.errors import IllegalMove, JobCancelled, StaleClaim, UnknownReport
from ledger.events.timeline import list_job_events
from ledger.jobs.approvals import approve, set_approvals
from ledger.jobs.cancellation import cancel_job, retry_job
from ledger.jobs.checkpoints import record_checkpoint
from ledger.jobs.claims import lock_claimed_job
from ledger.jobs.jobs import get_report, list_attempts
from ledger.registry.access import ensure_tenant
from ledger.registry.models import get_model, list_versions
from ledger.states import AttemptOutcome, JobState, Phase, Reason, RequestState, Verdict, VersionKind
from ledger.tables import Event
from report.document import read
from tests.ledger.conftest import IEU, LTU, digests, nothing_written, progress, publish


def test_publishing_writes_version_report_erased_samples_and_states_together(world):
    request = world.submit(1, 2)
    claim = world.claim(request.targets[0].job.id)
    report_id = world.finish(claim)
    with world.sessions() as session:
        model = get_model(session, tenant_id=world.tenant_id, name="small")
        report = get_report(session, tenant_id=world.tenant_id, report_id=report_id)
    assert (model.version.number, model.version.kind, model.erased_samples) == (2, VersionKind.UNLEARNED, 2)
    assert model.version.report_id == report_id
    job = world.job(claim.job_id)
    assert (job.report_id, job.verdict) == (report.id, Verdict.VERIFIED)
    assert (job.state, job.phase, job.progress, job.version) == (JobState.COMPLETED, Phase.DONE, 1.0, 2)
    target = world.request(request.id).targets[0]
    assert (target.state, target.version, target.report_id) == (RequestState.COMPLETED, 2, report_id)
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
    report_id = world.finish(world.submit_and_claim(1))
    with world.sessions() as session:
        report = get_report(session, tenant_id=world.tenant_id, report_id=report_id)
    assert read(report.body).sha256 == report.sha256
    assert list(report.body) == sorted(report.body)


def test_a_report_is_its_tenants_own(world):
    published = world.finish(world.submit_and_claim(1))
    with world.sessions.begin() as session:
        for tenant_id, report_id in ((ensure_tenant(session, "bank"), published), (world.tenant_id, uuid4())):
            with pytest.raises(UnknownReport):
                get_report(session, tenant_id=tenant_id, report_id=report_id)


def test_the_next_job_starts_from_the_newest_version_and_knows_all_that_was_ever_forgotten(world):
    world.finish(world.submit_and_claim(1, 2))
    world.finish(world.submit_and_claim(3))
    third = world.submit_and_claim(2, 4)
    assert (third.base_version, third.weights_path) == (3, "cdcd.safetensors")
    assert third.samples.forget == frozenset(digests(4))
    assert third.samples.erased == frozenset(digests(1, 2, 3))
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
    following = world.escalate(claim)
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
    following = world.escalate(world.submit_and_claim(1))
    world.finish(following)


def test_each_attempt_keeps_its_own_time_of_what_the_claim_has_taken(world):
    claim = world.submit_and_claim(1)
    with world.sessions.begin() as session:
        progress(session, claim, timings={"load": 1.0, "unlearn": 2.5})
    following = world.escalate(claim, timings={"load": 1.0, "unlearn": 3.0})
    with world.sessions.begin() as session:
        progress(session, following, timings={"load": 1.0, "unlearn": 3.5})
        first, second = list_attempts(session, tenant_id=world.tenant_id, job_id=claim.job_id)
    assert (first.timings, second.timings) == ({"load": 1.0, "unlearn": 3.0}, {"load": 0.0, "unlearn": 0.5})
    assert world.job(claim.job_id).timings == {"load": 1.0, "unlearn": 3.5}


def test_after_a_crash_the_job_goes_on_with_the_method_it_had_come_to_and_has_all_its_tries(world):
    following = world.escalate(world.submit_and_claim(1))
    for _ in range(2):
        world.expire_lease(following.job_id)
        world.sweep(max_tries=3)
        again = world.claim(following.job_id)
        assert (again.method, again.policy_index) == (IEU, 1)
    world.expire_lease(following.job_id)
    world.sweep(max_tries=3)
    assert world.job(following.job_id).reason == Reason.ATTEMPTS_EXHAUSTED


def end_wait(world, job_id):
    """Make a job's next attempt due."""
    with world.sessions.begin() as session:
        session.execute(text("UPDATE jobs SET retry_at = clock_timestamp() WHERE id = :id"), {"id": job_id})


def test_a_failure_that_may_pass_is_waited_for_and_each_wait_is_longer(world):
    """Three attempts in twelve seconds do not outlast a full disk."""
    claim = world.submit_and_claim(1)
    waits = []
    for _ in range(4):
        with world.sessions.begin() as session:
            session.execute(text("DELETE FROM outbox"))  # as the relay does with what it has sent
        world.fail(claim, Reason.DISK_FULL, retry=True, max_tries=9, first_wait=timedelta(seconds=30))
        assert world.claim(claim.job_id) is None
        assert world.sweep().wake == []
        with world.sessions() as session:
            wait = session.scalar(text("SELECT available_at - (SELECT max(finished_at) FROM attempts) FROM outbox"))
        waits.append(wait.total_seconds())
        assert world.job(claim.job_id).retry_at is not None
        end_wait(world, claim.job_id)
        assert world.sweep().wake == [claim.job_id]
        claim = world.claim(claim.job_id)
    assert waits == pytest.approx([30, 120, 480, 900], abs=25)  # both times are of a machine that may be busy
    assert world.job(claim.job_id).retry_at is None


def test_another_job_of_the_model_does_not_wait_for_one_that_waits(world):
    first = world.submit_and_claim(1)
    second = world.submit(2).targets[0].job.id
    world.fail(first, Reason.DISK_FULL, retry=True, first_wait=timedelta(seconds=30))
    with world.sessions() as session:
        due = session.execute(text("SELECT job_id FROM outbox WHERE available_at <= clock_timestamp()")).scalars().all()
    assert second in due
    assert world.claim(second) is not None


def test_a_job_that_gets_further_has_all_its_attempts_again(world):
    claim = world.submit_and_claim(1)
    for step in (10, 20, 30, 40, 50):
        with world.sessions.begin() as session:
            record_checkpoint(session, lock_claimed_job(session, claim), sha256="ab" * 32, step=step, total=100)
        world.fail(claim, Reason.OUT_OF_MEMORY, retry=True, max_tries=2)
        claim = world.claim(claim.job_id)
    for left in (1, 0):  # at the same step it is no progress, also if its checkpoint was lost in between
        with world.sessions.begin() as session:
            record_checkpoint(session, lock_claimed_job(session, claim), sha256="ab" * 32, step=50, total=100)
        world.fail(claim, Reason.GPU_LOST, retry=True, max_tries=2)
        claim = world.claim(claim.job_id) if left else None
    assert world.job(world.submit(2).targets[0].job.id).state == JobState.QUEUED
    with world.sessions() as session:
        failed = session.scalars(text("SELECT reason FROM jobs WHERE state = 'failed'")).all()
    assert failed == [Reason.GPU_LOST]


@pytest.mark.parametrize("reason", [Reason.STALLED, Reason.UNEXPECTED])
def test_a_failure_that_seldom_passes_is_tried_once_more_whatever_ended_the_tries_before(world, reason):
    """A job that has lost two workers, and then hangs for the first time, has its second try too."""

    def lose(claim):
        world.expire_lease(claim.job_id)
        world.sweep(max_tries=9)
        return world.claim(claim.job_id)

    claim = lose(lose(world.submit_and_claim(1)))
    world.fail(claim, reason, retry=True, max_tries=9)
    assert world.job(claim.job_id).state == JobState.QUEUED
    claim = lose(world.claim(claim.job_id))
    world.fail(claim, reason, retry=True, max_tries=9)
    assert (world.job(claim.job_id).state, world.job(claim.job_id).reason) == (JobState.FAILED, reason)


@pytest.mark.parametrize(
    ("reason", "phase", "goes_on"),
    [
        (Reason.OUT_OF_MEMORY, Phase.UNLEARN, True),
        (Reason.STALLED, Phase.UNLEARN, True),
        (Reason.STALLED, Phase.LOAD, False),  # every method loads the same
        (Reason.UNEXPECTED, Phase.UNLEARN, True),
        (Reason.UNEXPECTED, Phase.AUDIT_RELEARN, True),
        (Reason.UNEXPECTED, Phase.PUBLISH, False),
        (Reason.DISK_FULL, Phase.UNLEARN, False),
    ],
)
def test_a_method_that_needs_too_much_is_followed_by_the_next_once_its_attempts_are_used(world, reason, phase, goes_on):
    claim = world.submit_and_claim(1)
    with world.sessions.begin() as session:
        progress(session, claim, phase=phase)
    world.fail(claim, reason, retry=True, max_tries=1)
    job = world.job(claim.job_id)
    if not goes_on:
        assert (job.state, job.reason) == (JobState.FAILED, reason)
        return
    assert (job.state, job.method, job.fallback.after) == (JobState.QUEUED, IEU, "ltu")
    following = world.claim(claim.job_id)
    assert (following.method, following.policy_index, following.origin) == (IEU, 1, "policy")
    world.fail(following, reason, retry=True, max_tries=1)
    assert world.job(claim.job_id).state == JobState.FAILED


def test_a_job_says_why_its_method_follows_another_and_how_long_it_takes(world):
    """Retraining takes what the training took, until it has run once."""
    with world.sessions.begin() as session:
        session.execute(text("""UPDATE models SET policy = '[{"kind": "ltu"}, {"kind": "retrain"}]'"""))
    claim = world.submit_and_claim(1)
    following = world.escalate(claim, timings={"unlearn": 3.0, "audit_membership": 1.0})
    found = world.job(claim.job_id).fallback
    assert (found.after, found.why, found.seconds) == ("ltu", "Not verified.", 12.5)
    with world.sessions() as session:
        (event,) = (
            event
            for event in list_job_events(session, tenant_id=world.tenant_id, job_id=claim.job_id)
            if event.kind == "job.fallback"
        )
    assert (event.data["method"], event.data["after"], event.data["seconds"]) == ("retrain", "ltu", 12.5)
    assert all(part in event.text for part in ("retrain", "LTU", "Not verified.", "12"))
    world.fail(following, Reason.METHOD_FAILED)
    with world.sessions.begin() as session:
        again = retry_job(session, tenant_id=world.tenant_id, job_id=claim.job_id)
    assert (again.method["kind"], again.fallback) == ("ltu", None)


def test_a_version_that_lost_too_much_accuracy_is_held_whatever_made_it(world):
    request = world.submit(1)
    claim = world.claim(request.targets[0].job.id)
    world.verify(claim)
    with world.sessions.begin() as session:
        publish(session, claim, utility_drop=36.1)
    job = world.job(claim.job_id)
    assert (job.state, job.phase, job.reason) == (JobState.AWAITING_APPROVAL, Phase.PUBLISH, Reason.UTILITY_DROP)
    assert "36.1" in job.detail
    with world.sessions() as session:
        assert get_model(session, tenant_id=world.tenant_id, name="small").version.number == 1
    assert world.request(request.id).state == RequestState.VERIFYING
    with world.sessions.begin() as session:
        approve(session, tenant_id=world.tenant_id, job_id=claim.job_id, by="key:dpo")
    job = world.job(claim.job_id)
    assert (job.state, job.reason, job.detail) == (JobState.COMPLETED, None, None)


def test_how_much_is_too_much_is_the_models_setting(world):
    with world.sessions.begin() as session:
        model = set_approvals(session, tenant_id=world.tenant_id, model="small", utility_drop=40.0, by="key:dpo")
    assert model.approve_utility_drop == 40.0
    claim = world.submit_and_claim(1)
    world.verify(claim)
    with world.sessions.begin() as session:
        publish(session, claim, utility_drop=36.1)
    assert world.job(claim.job_id).state == JobState.COMPLETED


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
        world.fail(claim, Reason.DISK_FULL, retry=True, max_tries=3)
        assert world.job(claim.job_id).state == JobState.QUEUED
        claim = world.claim(claim.job_id)
    world.fail(claim, Reason.DISK_FULL, retry=True, max_tries=3)
    job = world.job(claim.job_id)
    assert (job.state, job.reason) == (JobState.FAILED, Reason.DISK_FULL)


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
    assert "LTU" in events[3].text
    assert (events[5].data["version"], events[5].data["verdict"]) == (2, "verified")
    with world.sessions() as session:
        rest = list_job_events(session, tenant_id=world.tenant_id, job_id=claim.job_id, after=events[4].id, limit=1)
    assert rest == [events[5]]


def test_an_event_of_a_newer_release_is_shown_by_its_kind(world):
    claim = world.submit_and_claim(1)
    with world.sessions.begin() as session:
        session.add(Event(kind="job.newer", job_id=claim.job_id, data={}))
    with world.sessions() as session:
        events = list_job_events(session, tenant_id=world.tenant_id, job_id=claim.job_id)
    assert events[-1].text == "job.newer"


def test_the_method_of_the_request_comes_first(world):
    claim = world.submit_and_claim(1, method=LTU | {"rate": 0.5})
    assert (claim.method["rate"], claim.origin) == (0.5, "request")
