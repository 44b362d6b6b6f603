import base64
import json
import random
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from uuid import UUID, uuid4

import pytest
from sqlalchemy import text

from ledger.errors import UnknownDelivery, UnknownWebhook, WebhookDisabled
from ledger.events import webhooks
from ledger.events.webhooks import JITTER, SCHEDULE, Try, queue_callback, webhook_secret
from ledger.metrics import read_tallies
from ledger.registry.access import ensure_tenant
from ledger.requests.deadlines import extend_deadline
from ledger.sample_ids import sample_digest
from ledger.states import DeliveryState, DisabledReason, MessageType, Reason, TryOutcome
from ledger.tables import WebhookEndpoint

KEY, ENDPOINT = bytes(range(32)), UUID(int=7)
TAKEN = Try(outcome=TryOutcome.DELIVERED, status=204, seconds=0.1)
BROKEN = Try(outcome=TryOutcome.REFUSED, status=500, seconds=0.1)
GONE = Try(outcome=TryOutcome.REFUSED, status=410, seconds=0.1)


def add(world, *types, tenant_id=None):
    with world.sessions.begin() as session:
        return webhooks.add_webhook(
            session, tenant_id=tenant_id or world.tenant_id, url="https://example.org/hook", types=types, key=bytes(32)
        ).id


def take(world):
    with world.sessions.begin() as session:
        return webhooks.take_batch(session)


def note(world, batch, made, *, place=0):
    with world.sessions.begin() as session:
        webhooks.record_try(session, batch, batch.deliveries[place], made, random=random.Random(1))


def release(world, batch, *, pause=False):
    with world.sessions.begin() as session:
        webhooks.release_batch(session, batch, pause=pause)


def log_of(world, webhook_id, **more):
    """The log, oldest first."""
    with world.sessions() as session:
        page = webhooks.list_deliveries(session, tenant_id=world.tenant_id, webhook_id=webhook_id, **more)
        return page.items[::-1]


def endpoint(world, webhook_id):
    with world.sessions() as session:
        return webhooks.get_webhook(session, tenant_id=world.tenant_id, webhook_id=webhook_id)


def let_time_pass(world):
    """Whatever is put off is due."""
    with world.sessions.begin() as session:
        session.execute(text("UPDATE webhook_deliveries SET next_try_at = clock_timestamp() WHERE state = 'pending'"))
        session.execute(text("UPDATE webhook_endpoints SET busy_until = NULL"))


def test_a_request_is_reported_from_its_receipt_to_its_result(world):
    webhook_id = add(world)
    claim = world.submit_and_claim(1)
    world.finish(claim)
    assert [delivery.type for delivery in log_of(world, webhook_id)] == [
        "request.received",
        "job.running",
        "report.published",
        "version.published",
        "job.completed",
        "request.completed",
    ]


def test_a_message_holds_ids_and_states_and_nothing_that_a_person_wrote(world):
    webhook_id = add(world)
    request = world.submit(1, reason="Ms Miller asked", external_id="miller-77")
    world.fail(world.claim(request.targets[0].job.id), Reason.UNEXPECTED)
    with world.sessions.begin() as session:
        again = world.submit(2, reason="Ms Miller asked")
        extend_deadline(session, tenant_id=world.tenant_id, request_id=again.id, reason="Ms Miller is patient")
    bodies = {delivery.type: delivery.body for delivery in log_of(world, webhook_id)}
    assert set(bodies["request.extended"]["data"]) == {"request_id", "due_at"}
    assert set(bodies["job.failed"]["data"]) == {"job_id", "model", "attempt", "reason"}
    assert all(set(body) == {"type", "timestamp", "data"} for body in bodies.values())
    assert "iller" not in json.dumps(bodies)


def test_only_the_types_asked_for_and_only_the_tenants_own_are_delivered(world):
    some = add(world, MessageType.JOB_FAILED, MessageType.REQUEST_RECEIVED)
    with world.sessions.begin() as session:
        stranger = ensure_tenant(session, "stranger")
    add(world, tenant_id=stranger)
    world.finish(world.submit_and_claim(1))
    assert [delivery.type for delivery in log_of(world, some)] == ["request.received"]
    assert world.count("webhook_deliveries") == 1


def test_what_was_rolled_back_is_not_delivered(world):
    add(world)
    session = world.sessions()
    extend_deadline(session, tenant_id=world.tenant_id, request_id=world.submit(1).id, reason="long")
    session.rollback()
    session.close()
    assert world.count("webhook_deliveries", "type = 'request.extended'") == 0


def test_a_delivery_that_was_taken_is_finished_and_counted(world):
    webhook_id = add(world, MessageType.REQUEST_RECEIVED)
    world.submit(1)
    note(world, take(world), TAKEN)
    (delivery,) = log_of(world, webhook_id)
    assert (delivery.state, delivery.next_try_at) == (DeliveryState.DELIVERED, None)
    assert [(each.number, each.outcome, each.status) for each in delivery.tries] == [(1, TryOutcome.DELIVERED, 204)]
    with world.sessions() as session:
        assert read_tallies(session, webhooks.TALLY) == {"delivered": 1}


def test_an_endpoint_belongs_to_one_relay_at_a_time(world):
    add(world, MessageType.REQUEST_RECEIVED)
    world.submit(1)
    batch = take(world)
    assert take(world) is None
    release(world, batch)
    assert take(world).endpoint_id == batch.endpoint_id


def test_another_relay_takes_the_endpoint_of_one_that_died(world, monkeypatch):
    monkeypatch.setattr(webhooks, "VISIBILITY_TIMEOUT", timedelta(0))
    add(world, MessageType.REQUEST_RECEIVED)
    world.submit(1)
    first = take(world)
    assert take(world).deliveries == first.deliveries
    release(world, first)  # the dead man's hand changes nothing


def test_a_relay_that_comes_back_does_not_free_an_endpoint_that_another_has_taken(world):
    webhook_id = add(world)
    world.submit(1)
    batch = take(world)
    with world.sessions.begin() as session:
        held = session.get(WebhookEndpoint, webhook_id)
        with world.sessions.begin() as other:
            taken_until = batch.held_until + timedelta(minutes=3)
            other.get(WebhookEndpoint, webhook_id, with_for_update=True).busy_until = taken_until
        assert held.busy_until == batch.held_until
        webhooks.release_batch(session, batch, pause=False)
    with world.sessions() as session:
        assert session.get(WebhookEndpoint, webhook_id).busy_until == taken_until


def test_an_endpoint_that_hangs_holds_up_no_other(world):
    slow = add(world, MessageType.REQUEST_RECEIVED)
    quick = add(world, MessageType.REQUEST_RECEIVED)
    world.submit(1)
    assert {take(world).endpoint_id, take(world).endpoint_id} == {slow, quick}


def test_a_failed_try_follows_the_schedule_to_its_end_and_never_beyond(world):
    webhook_id = add(world, MessageType.REQUEST_RECEIVED)
    world.submit(1)
    for wait in SCHEDULE:
        note(world, take(world), BROKEN)
        (delivery,) = log_of(world, webhook_id)
        waits = delivery.next_try_at - delivery.tries[-1].at
        assert wait <= waits + timedelta(seconds=1)
        assert waits <= wait * (1 + JITTER) + timedelta(seconds=30)  # the time between two statements
        let_time_pass(world)
    note(world, take(world), BROKEN)
    (delivery,) = log_of(world, webhook_id)
    assert (delivery.state, len(delivery.tries)) == (DeliveryState.FAILED, len(SCHEDULE) + 1)
    let_time_pass(world)
    assert take(world) is None


def test_a_failed_endpoint_rests_a_moment(world):
    add(world, MessageType.REQUEST_RECEIVED)
    world.submit(1)
    world.submit(2)
    batch = take(world)
    note(world, batch, BROKEN)
    release(world, batch, pause=True)
    assert take(world) is None
    let_time_pass(world)
    assert len(take(world).deliveries) == 2


def test_an_endpoint_that_is_gone_is_disabled_at_once_with_what_waits_for_it(world):
    webhook_id = add(world, MessageType.REQUEST_RECEIVED)
    world.submit(1)
    world.submit(2)
    note(world, take(world), GONE)
    assert endpoint(world, webhook_id).disabled_reason == DisabledReason.GONE
    assert {delivery.state for delivery in log_of(world, webhook_id)} == {DeliveryState.FAILED}
    world.submit(3)
    assert world.count("webhook_deliveries") == 2


def test_an_endpoint_is_disabled_after_five_days_without_a_success(world):
    webhook_id = add(world, MessageType.REQUEST_RECEIVED)
    world.submit(1)
    note(world, take(world), BROKEN)
    let_time_pass(world)
    assert endpoint(world, webhook_id).failing_since is not None
    with world.sessions.begin() as session:
        session.execute(text("UPDATE webhook_endpoints SET failing_since = failing_since - interval '6 days'"))
    note(world, take(world), BROKEN)
    assert endpoint(world, webhook_id).disabled_reason == DisabledReason.FAILING


def test_a_success_ends_the_failing(world):
    webhook_id = add(world, MessageType.REQUEST_RECEIVED)
    world.submit(1)
    note(world, take(world), BROKEN)
    let_time_pass(world)
    note(world, take(world), TAKEN)
    assert endpoint(world, webhook_id).failing_since is None


def test_for_a_day_after_a_rotation_both_secrets_sign(world):
    webhook_id = add(world, MessageType.REQUEST_RECEIVED)
    with world.sessions.begin() as session:
        webhooks.rotate_secret(session, tenant_id=world.tenant_id, webhook_id=webhook_id, key=bytes(32))
    world.submit(1)
    batch = take(world)
    assert batch.generations == (2, 1)
    with world.sessions.begin() as session:
        session.execute(text("UPDATE webhook_endpoints SET rotated_at = rotated_at - interval '25 hours'"))
    let_time_pass(world)
    assert take(world).generations == (2,)


def test_an_endpoint_deleted_while_a_relay_sends_leaves_nothing(world):
    webhook_id = add(world, MessageType.REQUEST_RECEIVED)
    world.submit(1)
    batch = take(world)
    with world.sessions.begin() as session:
        webhooks.remove_webhook(session, tenant_id=world.tenant_id, webhook_id=webhook_id)
    note(world, batch, TAKEN)
    release(world, batch)
    assert world.count("webhook_tries") == 0
    with world.sessions() as session, pytest.raises(UnknownWebhook):
        webhooks.get_webhook(session, tenant_id=world.tenant_id, webhook_id=webhook_id)


def test_an_endpoint_that_is_deleted_at_this_moment_fails_no_request(world):
    webhook_id = add(world, MessageType.REQUEST_RECEIVED)
    with world.sessions.begin() as session:
        webhooks.remove_webhook(session, tenant_id=world.tenant_id, webhook_id=webhook_id)
        with ThreadPoolExecutor(1) as pool:
            asking = pool.submit(world.submit, 1)
            world.await_lock("the request to wait")
            session.commit()
            assert asking.result(30).samples.accepted == 1
    assert world.count("webhook_deliveries") == 0


def test_a_replay_sends_the_same_message_again_unless_the_endpoint_is_disabled(world):
    webhook_id = add(world, MessageType.REQUEST_RECEIVED)
    world.submit(1)
    batch = take(world)
    note(world, batch, TAKEN)
    release(world, batch)
    mine = {"tenant_id": world.tenant_id, "webhook_id": webhook_id}
    with world.sessions.begin() as session:
        webhooks.replay(session, delivery_id=batch.deliveries[0].id, **mine)
    assert take(world).deliveries == batch.deliveries
    with world.sessions.begin() as session, pytest.raises(UnknownDelivery):
        webhooks.replay(session, delivery_id=uuid4(), **mine)
    with world.sessions.begin() as session:
        webhooks.change_webhook(session, enabled=False, **mine)
    with world.sessions.begin() as session, pytest.raises(WebhookDisabled):
        webhooks.replay(session, delivery_id=batch.deliveries[0].id, **mine)


def test_the_log_of_what_ended_long_ago_is_cut_and_the_count_stays(world):
    webhook_id = add(world, MessageType.REQUEST_RECEIVED)
    world.submit(1)
    note(world, take(world), TAKEN)
    with world.sessions.begin() as session:
        webhooks.delete_expired_deliveries(session)
    assert len(log_of(world, webhook_id)) == 1
    with world.sessions.begin() as session:
        session.execute(text("UPDATE webhook_deliveries SET finished_at = finished_at - interval '31 days'"))
        webhooks.delete_expired_deliveries(session)
        assert read_tallies(session, webhooks.TALLY) == {"delivered": 1}
    assert (log_of(world, webhook_id), world.count("webhook_tries")) == ([], 0)


def test_an_endpoint_taken_before_the_clock_stepped_back_is_free(world):
    webhook_id = add(world)
    world.submit(1)
    assert take(world).endpoint_id == webhook_id
    assert take(world) is None
    with world.sessions.begin() as session:
        session.execute(text("UPDATE webhook_endpoints SET busy_until = busy_until + interval '1 day'"))
    assert take(world).endpoint_id == webhook_id


@pytest.mark.parametrize("failed", [0, 1, 2])
def test_a_message_put_off_before_the_clock_stepped_back_waits_as_long_as_any_other(world, failed):
    webhook_id = add(world)
    world.submit(1)
    for _ in range(failed):
        let_time_pass(world)
        batch = take(world)
        note(world, batch, BROKEN)
        release(world, batch)
    (before,) = log_of(world, webhook_id)
    with world.sessions.begin() as session:
        webhooks.cut_waits(session)
    assert log_of(world, webhook_id) == [before]
    with world.sessions.begin() as session:
        session.execute(text("UPDATE webhook_deliveries SET next_try_at = next_try_at + interval '1 day'"))
    assert take(world) is None
    with world.sessions.begin() as session:
        webhooks.cut_waits(session)
        left = session.scalar(text("SELECT next_try_at - now() FROM webhook_deliveries"))
    longest = SCHEDULE[failed - 1] * (1 + JITTER) if failed else timedelta(0)
    assert left <= longest + timedelta(minutes=2)  # beyond when its transaction began
    assert failed or take(world) is not None


@pytest.mark.parametrize("disabled", [True, False])
def test_an_address_that_requests_name_fails_anew_once_it_was_disabled_for_failing(world, disabled):
    def queue():
        with world.sessions.begin() as session:
            queue_callback(session, tenant_id=world.tenant_id, url="https://example.org/callbacks", body="{}")

    queue()
    with world.sessions.begin() as session:
        failing = "UPDATE webhook_endpoints SET failing_since = clock_timestamp() - make_interval(days => :days)"
        session.execute(text(failing), {"days": 6 if disabled else 4})
    note(world, take(world), BROKEN)
    assert world.count("webhook_endpoints", "disabled_reason = 'failing'") == disabled
    queue()
    let_time_pass(world)
    note(world, take(world), BROKEN, place=-1)
    assert world.count("webhook_endpoints", "disabled_at IS NULL") == 1
    since = "failing_since > clock_timestamp() - interval '1 hour'"
    assert world.count("webhook_endpoints", since) == disabled
    assert world.count("webhook_deliveries", "state = 'pending'") == (1 if disabled else 2)


def test_a_secret_has_the_standards_form_and_stays_the_same():
    secret = webhook_secret(KEY, ENDPOINT, 1)
    assert secret.startswith("whsec_")
    assert 24 <= len(base64.b64decode(secret.removeprefix("whsec_"))) <= 64
    assert secret == webhook_secret(KEY, ENDPOINT, 1)


def test_another_endpoint_generation_or_key_gives_another_secret():
    secrets = {
        webhook_secret(KEY, ENDPOINT, 1),
        webhook_secret(KEY, ENDPOINT, 2),
        webhook_secret(KEY, UUID(int=8), 1),
        webhook_secret(bytes(32), ENDPOINT, 1),
    }
    assert len(secrets) == 4


def test_no_sample_of_a_named_dataset_has_a_secret_for_its_digest():
    digest = sample_digest(KEY, "webhook secret", "")
    assert base64.b64encode(digest).decode() not in webhook_secret(KEY, ENDPOINT, 1)
