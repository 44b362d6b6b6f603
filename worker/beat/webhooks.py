"""Delivery of webhook messages by threads of the beat, signed as Standard Webhooks or, for status callbacks, OpenDSR wants it."""

import logging
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from importlib.metadata import version

from sqlalchemy.orm import Session, sessionmaker
from standardwebhooks.webhooks import Webhook

from connectors.opendsr import MANAGER, OpenDsr
from ledger.events.webhooks import (
    Batch,
    Delivery,
    Try,
    cut_waits,
    queue_callback,
    record_try,
    release_batch,
    take_batch,
    webhook_secret,
)
from ledger.requests.managed import take_changes
from ledger.sample_ids import earlier_keys
from ledger.states import TryOutcome, WebhookProtocol
from worker.beat.egress import post
from worker.failures import AddressForbidden, Unreachable
from worker.settings import Network

logger = logging.getLogger(__name__)

TIMEOUT = 10.0
"""Seconds for a whole try."""

_FORM = {"Content-Type": "application/json", "User-Agent": f"Expunge/{version('expunge')}"}

Send = Callable[[Batch, Delivery], Try]


def deliver_webhooks(sessions: sessionmaker[Session], *, send: Send) -> None:
    """Deliver until nothing is due: endpoint after endpoint, a batch at a time, each try recorded before the next."""
    while True:
        with sessions.begin() as session:
            batch = take_batch(session)
        if batch is None:
            return
        failed = False
        for delivery in batch.deliveries:
            made = send(batch, delivery)
            with sessions.begin() as session:
                record_try(session, batch, delivery, made)
            failed = made.outcome != TryOutcome.DELIVERED
            if failed:
                logger.info("webhook %s: %s (%s)", batch.endpoint_id, made.outcome, made.status or "no response")
                break
        with sessions.begin() as session:
            release_batch(session, batch, pause=failed)


def cut_long_waits(sessions: sessionmaker[Session]) -> None:
    """Let no message wait for longer than it would if it had failed now: the database's clock may have stepped back."""
    with sessions.begin() as session:
        cut_waits(session)


def report_statuses(sessions: sessionmaker[Session], opendsr: OpenDsr) -> None:
    """Write a callback for each address of each OpenDSR request whose status has changed since the last one."""
    changed = True
    while changed:
        with sessions.begin() as session:
            changed = False
            for request in take_changes(session, MANAGER):
                changed = True
                for url in request.callback_urls:
                    body = opendsr.callback(request, url)
                    queue_callback(session, tenant_id=request.tenant_id, url=url, body=body)


def send_once(
    batch: Batch, delivery: Delivery, *, key: bytes, allowed: Sequence[Network], opendsr: OpenDsr | None = None
) -> Try:
    """Send a message once, and return how that ended.

    key: derives the endpoints' secrets. allowed: networks that may be reached although they are not public. opendsr: signs its
    callbacks.
    """
    started = time.monotonic()
    body, status = delivery.body.encode(), None
    if batch.protocol == WebhookProtocol.STANDARD:
        headers = sign(delivery, secrets_of(batch, key=key))
    elif opendsr is not None:
        headers = {**_FORM, **opendsr.headers(body)}
    else:
        logger.error("a status callback cannot be signed: set EXPUNGE_OPENDSR for the beat too")
        return Try(outcome=TryOutcome.UNREACHABLE, status=None, seconds=0.0)
    try:
        status = post(batch.url, body, headers, allowed=allowed, timeout=TIMEOUT)
        outcome = TryOutcome.DELIVERED if 200 <= status < 300 else TryOutcome.REFUSED
    except AddressForbidden:
        outcome = TryOutcome.FORBIDDEN
    except Unreachable:
        outcome = TryOutcome.UNREACHABLE
    return Try(outcome=outcome, status=status, seconds=round(time.monotonic() - started, 3))


def secrets_of(batch: Batch, *, key: bytes) -> list[str]:
    """Derive the secrets of an endpoint: receivers keep the one that they were shown, also over a rotation of the sample key."""
    return [
        webhook_secret(then, batch.endpoint_id, number) for number in batch.generations for then in earlier_keys(key)
    ]


def sign(delivery: Delivery, secrets: Sequence[str], *, at: datetime | None = None) -> dict[str, str]:
    """Make the headers of a message, with one signature for each secret."""
    moment = at or datetime.now(UTC)
    message_id = f"msg_{delivery.message_id.hex}"
    signatures = [Webhook(secret).sign(message_id, moment, delivery.body) for secret in secrets]
    return {
        **_FORM,
        "webhook-id": message_id,
        "webhook-timestamp": str(int(moment.timestamp())),
        "webhook-signature": " ".join(signatures),
    }
