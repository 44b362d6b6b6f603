"""Status callbacks of OpenDSR, from a request's change of state to an HTTP server that verifies them."""

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import partial
from ipaddress import ip_network
from uuid import UUID, uuid4

import pytest
from sqlalchemy import select, text
from sqlalchemy.orm import Session, sessionmaker

from connectors.opendsr import MANAGER, OpenDsr, read_opendsr
from ledger.events.webhooks import (
    add_webhook,
    change_webhook,
    delete_expired_deliveries,
    list_deliveries,
    list_webhooks,
)
from ledger.jobs.cancellation import retry_job
from ledger.registry.subjects import assign_subjects
from ledger.requests.cancellation import cancel_request
from ledger.requests.managed import Received, submit_managed
from ledger.requests.submission import submit
from ledger.resources import UnlearnRequest, Webhook
from ledger.sample_ids import subject_digest
from ledger.states import Reason, WebhookProtocol
from ledger.tables import Target
from tests.fixtures.opendsr import DOMAIN, controller, declare, verify
from tests.fixtures.postgresql import Filled
from tests.ledger.conftest import KEY, World, digests, make_world
from worker.beat import webhooks

LOOPBACK = (ip_network("127.0.0.0/8"),)

Turn = Callable[[], None]


@pytest.fixture(scope="session")
def protocol(tmp_path_factory: pytest.TempPathFactory) -> OpenDsr:
    return read_opendsr(declare(tmp_path_factory.mktemp("opendsr")))


@pytest.fixture
def world(filled: Filled, sessions: sessionmaker[Session]) -> World:
    world: World = filled(make_world)
    with sessions.begin() as session:
        rows = [(subject_digest(KEY, "ann"), digest, 1) for digest in digests(1)]
        assign_subjects(session, tenant_id=world.tenant_id, dataset="digits", rows=rows)
    return world


@pytest.fixture
def beat(world: World, protocol: OpenDsr) -> Turn:
    """One turn of the beat's threads, in which whatever waits for another try is due."""
    send = partial(webhooks.send_once, key=KEY, allowed=LOOPBACK, opendsr=protocol)

    def turn() -> None:
        with world.sessions.begin() as session:
            session.execute(
                text("UPDATE webhook_deliveries SET next_try_at = clock_timestamp() WHERE state = 'pending'")
            )
            session.execute(text("UPDATE webhook_endpoints SET busy_until = NULL"))
        webhooks.report_statuses(world.sessions, protocol)
        webhooks.deliver_webhooks(world.sessions, send=send)

    return turn


def send_request(world: World, *urls: str, sample: int = 1, quiet: timedelta = timedelta()) -> str:
    """Send a request of the protocol for this sample, and give its reference. Nobody knows a sample from 100 on."""
    received = Received(
        manager=MANAGER,
        reference=str(uuid4()),
        body_sha256="0" * 64,
        regulation="gdpr",
        received_at=datetime(2026, 1, 31, tzinfo=UTC),
        callback_urls=urls,
    )
    with world.sessions.begin() as session:

        def record() -> UnlearnRequest:
            return submit(session, world.submission(sample, caller="cdp"), window=timedelta())

        return submit_managed(session, received, record, tenant_id=world.tenant_id, quiet=quiet).reference


def only_job(world: World) -> UUID:
    with world.sessions() as session:
        job_id = session.scalars(select(Target.job_id)).one()
    assert job_id is not None
    return job_id


def endpoints(world: World) -> list[Webhook]:
    with world.sessions() as session:
        return list_webhooks(session, tenant_id=world.tenant_id)


def test_each_change_is_called_back_once_and_verifies(world: World, beat: Turn, protocol: OpenDsr) -> None:
    with controller() as seen:
        reference = send_request(world, seen.url)
        beat()
        beat()
        claim = world.claim(only_job(world))
        beat()
        world.finish(claim)
        beat()
        beat()
    assert seen.statuses == ["pending", "in_progress", "completed"]
    for headers, body in seen.calls:
        assert headers["X-OpenDSR-Processor-Domain"] == DOMAIN
        verify(protocol.certificates, headers["X-OpenDSR-Signature"], body)
        assert "webhook-signature" not in headers
    callback = json.loads(seen.calls[-1][1])
    assert callback["status_callback_url"] == seen.url
    assert (callback["subject_request_id"], callback["controller_id"]) == (reference, str(world.tenant_id))


def test_a_callback_that_is_refused_is_sent_again(world: World, beat: Turn) -> None:
    with controller() as seen:
        seen.answers += [500, 403]
        send_request(world, seen.url)
        for _ in range(4):
            beat()
    assert seen.statuses == ["pending"] * 3
    assert len({body for _, body in seen.calls}) == 1


def test_every_address_of_a_request_is_called(world: World, beat: Turn) -> None:
    with controller() as one, controller() as other:
        send_request(world, one.url, other.url)
        beat()
    assert one.statuses == other.statuses == ["pending"]


def test_a_stranger_is_called_back_as_somebody_who_is_known(world: World, beat: Turn) -> None:
    with controller() as known, controller() as stranger:
        for sample, seen in ((1, known), (100, stranger)):
            send_request(world, seen.url, sample=sample, quiet=timedelta(hours=1))
        beat()
        world.finish(world.claim(only_job(world)))
        beat()
        assert known.statuses == stranger.statuses == ["pending"]
        with world.sessions.begin() as session:
            session.execute(text("UPDATE managed_requests SET quiet_until = clock_timestamp()"))
        beat()
    assert known.statuses == stranger.statuses == ["pending", "completed"]


def test_a_failure_stays_in_progress_and_a_retry_completes(world: World, beat: Turn) -> None:
    with controller() as seen:
        send_request(world, seen.url)
        beat()
        claim = world.claim(only_job(world))
        beat()
        world.fail(claim, Reason.AUDIT_FAILED)
        beat()
        with world.sessions.begin() as session:
            retry_job(session, tenant_id=world.tenant_id, job_id=only_job(world))
        beat()
        assert seen.statuses == ["pending", "in_progress"]
        world.finish(world.claim(only_job(world)))
        beat()
    assert seen.statuses == ["pending", "in_progress", "completed"]


def test_what_is_withdrawn_elsewhere_is_called_back_as_cancelled(world: World, beat: Turn) -> None:
    with controller() as seen:
        send_request(world, seen.url)
        with world.sessions.begin() as session:
            request_id = session.scalars(select(Target.request_id)).one()
            cancel_request(session, tenant_id=world.tenant_id, request_id=request_id)
        beat()
    assert seen.statuses == ["cancelled"]


def test_events_go_to_no_callback_address_and_callbacks_to_no_webhook(world: World, beat: Turn) -> None:
    with world.sessions.begin() as session:
        hook = add_webhook(session, tenant_id=world.tenant_id, url="http://127.0.0.1:1/", key=KEY)
    with controller() as seen:
        send_request(world, seen.url)
        world.finish(world.claim(only_job(world)))
        beat()
    assert seen.statuses == ["completed"]
    with world.sessions() as session:
        log = list_deliveries(session, tenant_id=world.tenant_id, webhook_id=hook.id)
    assert "opendsr.status" not in {delivery.type for delivery in log.items}
    assert {one.protocol for one in endpoints(world)} == {WebhookProtocol.STANDARD, WebhookProtocol.OPENDSR}


def test_an_address_that_failed_is_tried_again_for_a_new_request_unless_an_admin_disabled_it(
    world: World, beat: Turn
) -> None:
    with controller() as seen:
        seen.answers.append(410)
        send_request(world, seen.url)
        beat()
        assert [one.disabled_reason for one in endpoints(world)] == ["gone"]
        send_request(world, seen.url, sample=2)
        beat()
        assert len(seen.calls) == 2
        with world.sessions.begin() as session:
            change_webhook(session, tenant_id=world.tenant_id, webhook_id=endpoints(world)[0].id, enabled=False)
        send_request(world, seen.url, sample=3)
        beat()
        assert len(seen.calls) == 2


def test_an_address_is_deleted_with_its_last_delivery(world: World, beat: Turn) -> None:
    with controller() as seen:
        send_request(world, seen.url)
        beat()
    with world.sessions.begin() as session:
        add_webhook(session, tenant_id=world.tenant_id, url=seen.url, key=KEY)
        delete_expired_deliveries(session)
    assert len(endpoints(world)) == 2
    with world.sessions.begin() as session:
        session.execute(text("UPDATE webhook_deliveries SET finished_at = finished_at - interval '31 days'"))
        delete_expired_deliveries(session)
    assert [one.protocol for one in endpoints(world)] == [WebhookProtocol.STANDARD]


def test_without_the_certificate_a_callback_waits(world: World, protocol: OpenDsr) -> None:
    with controller() as seen:
        send_request(world, seen.url)
        webhooks.report_statuses(world.sessions, protocol)
        webhooks.deliver_webhooks(world.sessions, send=partial(webhooks.send_once, key=KEY, allowed=LOOPBACK))
    assert seen.calls == []
    with world.sessions() as session:
        (found,) = list_deliveries(session, tenant_id=world.tenant_id, webhook_id=endpoints(world)[0].id).items
    assert (found.state, len(found.tries)) == ("pending", 1)
