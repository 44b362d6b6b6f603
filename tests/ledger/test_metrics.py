from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pytest
from sqlalchemy import text, update

from ledger import metrics
from ledger.db import now
from ledger.jobs.approvals import set_approvals
from ledger.jobs.cancellation import retry_job
from ledger.requests.cancellation import cancel_request, dismiss_request
from ledger.states import JobState, Reason
from ledger.tables import Job, UnlearnRequest, WebhookDelivery, WebhookEndpoint
from tests.ledger.conftest import progress

NONE = metrics.Backlog(waiting=0, oldest=None)


def test_known_label_sets_are_there_before_the_first_row(world):
    with world.sessions() as session:
        seconds = metrics.unlearning_seconds(session, kinds=["ltu"]).by_labels
        assert set(seconds) == {("hospital", "small", "ltu"), ("hospital", "large", "ltu")}
        assert all(total == 0.0 and set(counts) == {0} for counts, total in seconds.values())
        assert {kind for _, kind in metrics.stage_seconds(session, kinds=["ltu"]).by_labels} == {"ltu"}
        assert metrics.jobs_by_state(session) == {}
        assert metrics.unserved_requests(session).earliest is None
        assert set(metrics.unserved_requests(session).counts.values()) == {0}


def test_a_published_job_is_counted_in_each_bucket_from_its_value_on(world):
    world.finish(world.submit_and_claim(1, 2))
    with world.sessions() as session:
        distribution = metrics.unlearning_seconds(session, kinds=["ltu"])
        counts, total = distribution.by_labels["hospital", "small", "ltu"]
        assert (dict(zip(distribution.bounds, counts, strict=False))[1], counts[1], counts[-1], total) == (0, 1, 1, 2.0)
        assert metrics.data_wait_seconds(session) == {("hospital", "small", "ltu"): 0.5}
        assert metrics.samples_erased(session) == {("hospital", "large"): 0, ("hospital", "small"): 2}
        assert metrics.verdicts(session) == {("hospital", "small", "verified"): 1}
        assert metrics.requests_finished(session) == {"completed": (1, 0), "failed": (0, 0)}
        assert metrics.job_requests(session).by_labels[()][1] == 1


def test_an_attempt_without_an_audit_is_not_timed(world):
    claim = world.submit_and_claim(1)
    with world.sessions.begin() as session:
        progress(session, claim, timings={"unlearn": 5.0})
    world.fail(claim, Reason.OUT_OF_MEMORY)
    with world.sessions() as session:
        assert metrics.unlearning_seconds(session, kinds=["ltu"]).by_labels["hospital", "small", "ltu"][1] == 0.0
        assert metrics.data_wait_seconds(session) == {}
        assert metrics.jobs_by_state(session) == {JobState.FAILED: 1}


@pytest.mark.parametrize("leave", ["retry", "withdraw", "dismiss"])
def test_a_failure_stays_counted_whatever_becomes_of_its_request(world, leave):
    long_ago = datetime.now(UTC) - timedelta(days=100)
    request = world.submit(1, received_at=long_ago)
    job_id = request.targets[0].job.id
    world.fail(world.claim(job_id), Reason.AUDIT_FAILED)
    on_time = world.submit(2)
    world.fail(world.claim(on_time.targets[0].job.id), Reason.AUDIT_FAILED)
    with world.sessions() as session:
        assert metrics.requests_finished(session) == {"failed": (2, 1)}
    mine = {"tenant_id": world.tenant_id, "request_id": request.id}
    with world.sessions.begin() as session:
        if leave == "retry":
            retry_job(session, tenant_id=world.tenant_id, job_id=job_id)
        elif leave == "withdraw":
            cancel_request(session, **mine)
        else:
            dismiss_request(session, **mine, reason="Kept by law.", by="key:dpo")
    if leave == "retry":
        world.finish(world.claim(job_id))
    after = {"retry": {"completed": (1, 1)}, "withdraw": {"cancelled": (1, 1)}, "dismiss": {}}
    with world.sessions() as session:
        assert metrics.requests_finished(session) == {"failed": (2, 1)} | after[leave]


def test_a_failure_that_an_earlier_release_has_not_counted_counts_before_and_after_a_retry(world):
    """In a rolling upgrade, until its last process is replaced."""
    long_ago = datetime.now(UTC) - timedelta(days=100)
    job_id = world.submit(1, received_at=long_ago).targets[0].job.id
    world.fail(world.claim(job_id), Reason.AUDIT_FAILED)
    with world.sessions.begin() as session:
        session.execute(update(UnlearnRequest).values(failures=0, late_failures=0))
        session.execute(update(Job).values(failures=0))

    def counted():
        with world.sessions() as session:
            failed = sum(times for _, _, times, _ in metrics.failed_jobs(session))
            return metrics.requests_finished(session), failed

    assert counted() == ({"failed": (1, 1)}, 1)
    with world.sessions.begin() as session:
        retry_job(session, tenant_id=world.tenant_id, job_id=job_id)
    assert counted() == ({"failed": (1, 1)}, 1)


def test_open_requests_past_their_date_are_overdue(world):
    long_ago = datetime.now(UTC) - timedelta(days=100)
    due_at = world.submit(1, received_at=long_ago).due_at
    world.submit(2)
    with world.sessions() as session:
        found = metrics.unserved_requests(session)
        assert (found.earliest, found.overdue) == (due_at, 1)


def test_an_expired_lease_is_counted_once(world):
    claim = world.submit_and_claim(1)
    world.expire_lease(claim.job_id)
    world.sweep(max_tries=3)
    world.sweep(max_tries=3)
    with world.sessions() as session:
        assert metrics.leases_expired(session) == 1


def test_a_running_job_tells_how_far_it_is_by_its_model_and_a_waiting_one_does_not(world):
    claim = world.submit_and_claim(1)
    world.submit(2, models=["large"])
    with world.sessions.begin() as session:
        progress(session, claim)
    with world.sessions() as session:
        assert metrics.progress(session) == {("hospital", "small", "unlearn"): 0.3}


def test_what_waits_for_a_decision_is_counted_and_no_worker_holds_it(world):
    with world.sessions.begin() as session:
        set_approvals(session, tenant_id=world.tenant_id, model="small", jobs=True, by="key:admin")
        set_approvals(session, tenant_id=world.tenant_id, model="large", versions=True, by="key:admin")
        assert metrics.awaiting_approval(session) == {"run": 0, "version": 0}
    world.submit_and_claim(1)
    held = world.submit_and_claim(2, models=["large"])
    with world.sessions() as session:
        assert metrics.awaiting_approval(session) == {"run": 1, "version": 0}
        assert [model for _, model, _ in metrics.progress(session)] == ["large"]
    world.finish(held)
    with world.sessions() as session:
        assert metrics.awaiting_approval(session) == {"run": 1, "version": 1}
        assert metrics.progress(session) == {}


def test_the_training_time_is_measured_if_it_was_registered(world):
    with world.sessions.begin() as session:
        session.execute(text("UPDATE models SET details = '{\"training_seconds\": 60}' WHERE name = 'small'"))
        session.execute(text("UPDATE models SET details = '{\"training_seconds\": \"long\"}' WHERE name = 'large'"))
    with world.sessions() as session:
        assert metrics.training_seconds(session) == {("hospital", "small"): 60.0}


def test_audits_are_counted_also_where_their_result_was_not_published(world):
    claim = world.submit_and_claim(1)
    world.verify(claim)
    following = world.escalate(claim)
    world.verify(following)
    world.fail(following, Reason.AUDIT_FAILED)
    world.finish(world.submit_and_claim(2))
    with world.sessions() as session:
        assert metrics.verdicts(session) == {
            ("hospital", "small", "failed"): 1,
            ("hospital", "small", "inconclusive"): 1,
            ("hospital", "small", "verified"): 1,
        }


def test_nothing_waits_in_an_empty_world(world):
    with world.sessions() as session:
        assert metrics.outbox_backlog(session) == NONE
        assert metrics.webhook_backlog(session) == NONE


def test_a_wake_up_counts_from_its_jobs_closing_time(world):
    world.submit(1, window=timedelta(hours=1))
    with world.sessions() as session:
        assert metrics.outbox_backlog(session) == NONE

    with world.sessions.begin() as session:
        session.execute(text("UPDATE jobs SET cut_off = clock_timestamp() - interval '5 minutes'"))
        session.execute(text("UPDATE outbox SET created_at = clock_timestamp() - interval '1 hour'"))
    with world.sessions() as session:
        found = metrics.outbox_backlog(session)
        closes_at = session.scalar(text("SELECT cut_off FROM jobs"))
    assert found == metrics.Backlog(waiting=1, oldest=closes_at)


def test_a_message_that_nobody_has_taken_waits(world):
    with world.sessions.begin() as session:
        endpoint = WebhookEndpoint(tenant_id=world.tenant_id, url="https://receiver.example/", types=[])
        session.add(endpoint)
        session.flush()
        message = WebhookDelivery(
            endpoint_id=endpoint.id, message_id=uuid4(), type="request.completed", body="{}", next_try_at=now(session)
        )
        session.add(message)
    with world.sessions() as session:
        found = metrics.webhook_backlog(session)
    assert (found.waiting, found.oldest) == (1, message.created_at)


def test_a_tally_counts_by_label_and_only_what_was_committed(sessions):
    for label in ("a", "b", "a"):
        with sessions.begin() as session:
            metrics.increment_tally(session, "things", label)
    session = sessions()
    metrics.increment_tally(session, "things", "b")
    session.rollback()
    session.close()
    with sessions() as session:
        assert metrics.read_tallies(session, "things") == {"a": 2, "b": 1}
        assert metrics.read_tallies(session, "others") == {}
