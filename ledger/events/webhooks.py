"""Webhooks: the endpoints with their secrets, and the deliveries of messages to them, an outbox with a log of every try.

A relay takes an endpoint with the messages that are due for it, sends them while no transaction is open, and records each try.
An endpoint belongs to one relay at a time, so that an endpoint that hangs delays no other. If a relay dies, another takes the
endpoint after `VISIBILITY_TIMEOUT`.
"""

import base64
import hmac
import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from random import Random
from uuid import UUID, uuid4

from sqlalchemy import case, delete, exists, func, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from ledger import resources
from ledger.db import now
from ledger.errors import CallbackAddress, UnknownDelivery, UnknownWebhook, WebhookDisabled
from ledger.metrics import increment_tally
from ledger.paging import read_page
from ledger.states import DeliveryState, DisabledReason, MessageType, TryOutcome, WebhookProtocol
from ledger.tables import WebhookDelivery, WebhookEndpoint, WebhookTry

SECRET_OVERLAP = timedelta(hours=24)
"""How long after a rotation messages are signed with the old secret too."""

SCHEDULE = tuple(timedelta(seconds=seconds) for seconds in (5, 300, 1800, 7200, 18_000, 36_000, 50_400, 72_000, 86_400))
"""The waits after each failed try, before jitter. After the last the delivery has failed. Standard Webhooks suggests these: about
three days in all."""

JITTER = 0.2
"""Each wait is longer by a random share of itself up to this, so that simultaneous failures are not retried together."""

MAX_FAILING_TIME = timedelta(days=5)
"""An endpoint at which every try has failed for this long is disabled (Standard Webhooks)."""

VISIBILITY_TIMEOUT = timedelta(minutes=3)
"""How long an endpoint belongs to its relay: longer than a batch in which every try times out."""

RETRY_PAUSE = timedelta(seconds=5)
"""How long an endpoint is left alone after a failed try."""

DELIVERY_RETENTION = timedelta(days=30)
"""How long the log of a finished delivery is kept."""

BATCH_SIZE = 10
"""How many messages a relay takes at a time."""

TALLY = "webhook_deliveries"
"""The name of the tally of tries, by outcome."""

OPENDSR_STATUS = "opendsr.status"
"""The type under which the log of deliveries has a status callback."""


def add_webhook(
    session: Session,
    *,
    tenant_id: UUID,
    url: str,
    types: Sequence[MessageType] = (),
    description: str | None = None,
    key: bytes,
) -> resources.WebhookWithSecret:
    """Create an endpoint to which events are sent from now on. Its secret is derived from the key."""
    endpoint = WebhookEndpoint(tenant_id=tenant_id, url=url, types=sorted(set(types)), description=description)
    session.add(endpoint)
    session.flush()
    return _with_secret(endpoint, key)


def change_webhook(
    session: Session,
    *,
    tenant_id: UUID,
    webhook_id: UUID,
    url: str | None = None,
    types: Sequence[MessageType] | None = None,
    description: str | None = None,
    enabled: bool | None = None,
) -> resources.Webhook:
    """Change what is not None. Messages that an endpoint missed while it was disabled are not sent later.

    Raises UnknownWebhook, and CallbackAddress for the address or the types of an endpoint that requests named.
    """
    endpoint = find_webhook(session, tenant_id=tenant_id, webhook_id=webhook_id, lock=True)
    if endpoint.protocol == WebhookProtocol.OPENDSR and (url is not None or types is not None):
        raise CallbackAddress(
            "requests named this address for their OpenDSR status callbacks, and it gets these alone: its url and types cannot be "
            "changed, only enabled and description; add a webhook of your own for other messages"
        )
    endpoint.url = url if url is not None else endpoint.url
    endpoint.types = sorted(set(types)) if types is not None else endpoint.types
    endpoint.description = description if description is not None else endpoint.description
    if enabled is False and endpoint.disabled_at is None:
        disable(session, endpoint, DisabledReason.BY_CALLER)
    if enabled is True:
        endpoint.disabled_at = endpoint.disabled_reason = endpoint.failing_since = None
    session.flush()
    return resources.Webhook.model_validate(endpoint)


def rotate_secret(session: Session, *, tenant_id: UUID, webhook_id: UUID, key: bytes) -> resources.WebhookWithSecret:
    """Give an endpoint its next secret; messages are signed with the last one too for `SECRET_OVERLAP`.

    Raises UnknownWebhook, and CallbackAddress for an endpoint whose messages are not signed with a secret.
    """
    endpoint = find_webhook(session, tenant_id=tenant_id, webhook_id=webhook_id, lock=True)
    if endpoint.protocol == WebhookProtocol.OPENDSR:
        raise CallbackAddress(
            "this address has no secret: OpenDSR status callbacks are signed with the key of the service's certificate"
        )
    endpoint.generation += 1
    endpoint.rotated_at = now(session)
    session.flush()
    return _with_secret(endpoint, key)


def remove_webhook(session: Session, *, tenant_id: UUID, webhook_id: UUID) -> None:
    """Delete an endpoint with its deliveries. Raises UnknownWebhook."""
    endpoint = find_webhook(session, tenant_id=tenant_id, webhook_id=webhook_id, lock=True)
    session.execute(delete(WebhookEndpoint).where(WebhookEndpoint.id == endpoint.id))


def get_webhook(session: Session, *, tenant_id: UUID, webhook_id: UUID) -> resources.Webhook:
    """Read one endpoint. Raises UnknownWebhook."""
    return resources.Webhook.model_validate(find_webhook(session, tenant_id=tenant_id, webhook_id=webhook_id))


def list_webhooks(session: Session, *, tenant_id: UUID) -> list[resources.Webhook]:
    """List all endpoints of a tenant, oldest first."""
    mine = select(WebhookEndpoint).where(WebhookEndpoint.tenant_id == tenant_id)
    return [
        resources.Webhook.model_validate(endpoint)
        for endpoint in session.scalars(mine.order_by(WebhookEndpoint.created_at))
    ]


def find_webhook(session: Session, *, tenant_id: UUID, webhook_id: UUID, lock: bool = False) -> WebhookEndpoint:
    """Find the row of a tenant's endpoint, read now. Raises UnknownWebhook."""
    mine = select(WebhookEndpoint).where(WebhookEndpoint.id == webhook_id, WebhookEndpoint.tenant_id == tenant_id)
    mine = mine.with_for_update(key_share=True) if lock else mine
    endpoint = session.scalar(mine.execution_options(populate_existing=True))
    if endpoint is None:
        raise UnknownWebhook(f"there is no webhook {webhook_id}")
    return endpoint


def disable(session: Session, endpoint: WebhookEndpoint, reason: DisabledReason) -> None:
    """Disable a locked endpoint. Its pending deliveries fail; they can be replayed."""
    endpoint.disabled_at, endpoint.disabled_reason = now(session), reason
    waiting = (WebhookDelivery.endpoint_id == endpoint.id) & (WebhookDelivery.state == DeliveryState.PENDING)
    given_up = {"state": DeliveryState.FAILED, "next_try_at": None, "finished_at": endpoint.disabled_at}
    session.execute(update(WebhookDelivery).where(waiting).values(**given_up))


def _with_secret(endpoint: WebhookEndpoint, key: bytes) -> resources.WebhookWithSecret:
    secret = webhook_secret(key, endpoint.id, endpoint.generation)
    return resources.WebhookWithSecret(**dict(resources.Webhook.model_validate(endpoint)), secret=secret)


_PURPOSE = b"\0webhook secret\0"
"""The hash of a sample never has an input that begins with NUL, because a dataset's name holds no control character."""


def webhook_secret(key: bytes, endpoint_id: UUID, generation: int) -> str:
    """Derive an endpoint's secret in the form of Standard Webhooks: `whsec_` and 32 bytes in base64. Each rotation changes it."""
    derived = hmac.digest(key, _PURPOSE + endpoint_id.bytes + generation.to_bytes(4, "big"), "sha256")
    return f"whsec_{base64.b64encode(derived).decode()}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivery:
    """A message to send now."""

    id: UUID
    message_id: UUID
    type: str
    body: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """The messages that are due for one endpoint. `generations` are those of the secrets to sign with, newest first."""

    endpoint_id: UUID
    url: str
    protocol: WebhookProtocol
    generations: tuple[int, ...]
    held_until: datetime
    deliveries: tuple[Delivery, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Try:
    """The result of a try. `status` is the HTTP status of the response, if there was one; `seconds` is its duration."""

    outcome: TryOutcome
    status: int | None
    seconds: float


def queue_callback(session: Session, *, tenant_id: UUID, url: str, body: str) -> None:
    """Write the delivery of an OpenDSR status callback to an address that a request named.

    The address becomes an endpoint of its own kind. One that was disabled because it failed is tried anew; one that an admin has
    disabled gets nothing.
    """
    mine = {"tenant_id": tenant_id, "url": url, "protocol": WebhookProtocol.OPENDSR}
    made = insert(WebhookEndpoint).values(
        **mine, types=[], description="OpenDSR status callbacks", id=uuid4(), generation=1
    )
    session.execute(made.on_conflict_do_nothing())
    # The lock only prevents deletion, until the delivery is written.
    found = select(WebhookEndpoint).filter_by(**mine).with_for_update(key_share=True)
    endpoint = session.scalars(found.execution_options(populate_existing=True)).one()
    if endpoint.disabled_reason == DisabledReason.BY_CALLER:
        return
    if endpoint.disabled_at is not None:
        endpoint.disabled_at = endpoint.disabled_reason = endpoint.failing_since = None
    session.add(
        WebhookDelivery(
            endpoint_id=endpoint.id, message_id=uuid4(), type=OPENDSR_STATUS, body=body, next_try_at=now(session)
        )
    )
    session.flush()


def take_batch(session: Session) -> Batch | None:
    """Take the endpoint that has waited longest, with the messages that are due for it. None if nothing is due."""
    moment = now(session)
    due = (WebhookDelivery.state == DeliveryState.PENDING) & (WebhookDelivery.next_try_at <= moment)
    # One that is held for longer than any relay holds it was taken before the database's clock stepped back.
    taken = WebhookEndpoint.busy_until.between(moment, moment + VISIBILITY_TIMEOUT)
    free = WebhookEndpoint.busy_until.is_(None) | ~taken
    waiting = (
        select(WebhookEndpoint)
        .join(WebhookDelivery, WebhookDelivery.endpoint_id == WebhookEndpoint.id)
        .where(due, free, WebhookEndpoint.disabled_at.is_(None))
        .order_by(WebhookDelivery.next_try_at)
        .limit(1)
        .with_for_update(of=WebhookEndpoint, key_share=True, skip_locked=True)
    )
    endpoint = session.scalar(waiting.execution_options(populate_existing=True))
    if endpoint is None:
        return None
    endpoint.busy_until = moment + VISIBILITY_TIMEOUT
    chosen = select(WebhookDelivery).where(due, WebhookDelivery.endpoint_id == endpoint.id)
    rows = session.scalars(chosen.order_by(WebhookDelivery.next_try_at, WebhookDelivery.created_at).limit(BATCH_SIZE))
    old_signs = endpoint.rotated_at is not None and endpoint.rotated_at + SECRET_OVERLAP > moment
    return Batch(
        endpoint_id=endpoint.id,
        url=endpoint.url,
        protocol=endpoint.protocol,
        generations=(endpoint.generation, endpoint.generation - 1) if old_signs else (endpoint.generation,),
        held_until=endpoint.busy_until,
        deliveries=tuple(Delivery(id=row.id, message_id=row.message_id, type=row.type, body=row.body) for row in rows),
    )


def cut_waits(session: Session) -> None:
    """Let no message wait for longer than its last failure asks for, as it would after the database's clock has stepped back."""
    moment = now(session)
    waits = {number: moment + wait * (1 + JITTER) for number, wait in enumerate(SCHEDULE, start=1)}
    latest = case(waits, value=WebhookDelivery.failures, else_=moment)
    late = (WebhookDelivery.state == DeliveryState.PENDING) & (WebhookDelivery.next_try_at > latest)
    mine = select(WebhookDelivery.id).where(late).with_for_update(skip_locked=True).cte("mine")
    cut = update(WebhookDelivery).where(WebhookDelivery.id == mine.c.id).values(next_try_at=latest)
    session.execute(cut.execution_options(synchronize_session=False))


def record_try(session: Session, batch: Batch, delivery: Delivery, made: Try, *, random: Random | None = None) -> None:
    """Record and count a try, and schedule the next one, if any. If the endpoint was deleted meanwhile, only count the try."""
    endpoint = _lock_endpoint(session, batch)
    increment_tally(session, TALLY, made.outcome)
    row = session.get(WebhookDelivery, delivery.id, with_for_update=True, populate_existing=True)
    if endpoint is None or row is None:
        return
    tried = session.scalars(select(func.count()).where(WebhookTry.delivery_id == row.id)).one()
    session.add(
        WebhookTry(delivery_id=row.id, number=tried + 1, outcome=made.outcome, status=made.status, seconds=made.seconds)
    )
    moment = now(session)
    if made.outcome == TryOutcome.DELIVERED:
        endpoint.failing_since = None
        _finish(row, DeliveryState.DELIVERED, moment)
    elif row.state == DeliveryState.PENDING:
        endpoint.failing_since = endpoint.failing_since or moment
        _schedule_next_try(row, moment, random or Random())
        if made.status == 410:
            disable(session, endpoint, DisabledReason.GONE)
        elif endpoint.failing_since <= moment - MAX_FAILING_TIME:
            disable(session, endpoint, DisabledReason.FAILING)
    session.flush()


def _lock_endpoint(session: Session, batch: Batch) -> WebhookEndpoint | None:
    """Lock a batch's endpoint, and read it anew; None if it was deleted."""
    return session.get(WebhookEndpoint, batch.endpoint_id, with_for_update={"key_share": True}, populate_existing=True)


def _schedule_next_try(row: WebhookDelivery, moment: datetime, random: Random) -> None:
    if row.failures >= len(SCHEDULE):
        _finish(row, DeliveryState.FAILED, moment)
        return
    row.next_try_at = moment + wait_after(row.failures, random)
    row.failures += 1


def wait_after(failures: int, random: Random) -> timedelta:
    """Return how long to wait before the next try, after so many failed ones before the last."""
    return SCHEDULE[min(failures, len(SCHEDULE) - 1)] * (1 + JITTER * random.random())


def _finish(row: WebhookDelivery, state: DeliveryState, moment: datetime) -> None:
    row.state, row.next_try_at, row.finished_at = state, None, moment


def release_batch(session: Session, batch: Batch, *, pause: bool) -> None:
    """Give the endpoint back to the relays, after `RETRY_PAUSE` if a try has failed."""
    endpoint = _lock_endpoint(session, batch)
    if endpoint is not None and endpoint.busy_until == batch.held_until:
        endpoint.busy_until = now(session) + RETRY_PAUSE if pause else None


def list_deliveries(
    session: Session,
    *,
    tenant_id: UUID,
    webhook_id: UUID,
    state: DeliveryState | None = None,
    cursor: str | None = None,
    limit: int = 50,
) -> resources.Page[resources.Delivery]:
    """List an endpoint's deliveries, newest first: all, or those in a state. Raises UnknownWebhook, InvalidCursor."""
    find_webhook(session, tenant_id=tenant_id, webhook_id=webhook_id)
    chosen = select(WebhookDelivery).where(WebhookDelivery.endpoint_id == webhook_id)
    if state is not None:
        chosen = chosen.where(WebhookDelivery.state == state)
    rows, next_cursor = read_page(session, chosen, WebhookDelivery, cursor=cursor, limit=limit)
    return resources.Page[resources.Delivery](items=_to_deliveries(session, rows), next_cursor=next_cursor)


def replay(session: Session, *, tenant_id: UUID, webhook_id: UUID, delivery_id: UUID) -> resources.Delivery:
    """Try a delivery again now, with the same message and a new schedule.

    Raises UnknownWebhook, UnknownDelivery, and WebhookDisabled.
    """
    if find_webhook(session, tenant_id=tenant_id, webhook_id=webhook_id, lock=True).disabled_at is not None:
        raise WebhookDisabled("the webhook is disabled; enable it first")
    mine = select(WebhookDelivery).where(WebhookDelivery.id == delivery_id, WebhookDelivery.endpoint_id == webhook_id)
    row = session.scalar(mine.with_for_update().execution_options(populate_existing=True))
    if row is None:
        raise UnknownDelivery(f"there is no delivery {delivery_id} of this webhook")
    row.state, row.failures, row.finished_at, row.next_try_at = DeliveryState.PENDING, 0, None, now(session)
    session.flush()
    return _to_deliveries(session, [row])[0]


def delete_expired_deliveries(session: Session) -> None:
    """Delete the deliveries that ended longer than DELIVERY_RETENTION ago, with their log.

    An address that requests named for callbacks is deleted with its last delivery. A request that names it again makes it anew.
    """
    session.execute(
        delete(WebhookDelivery).where(WebhookDelivery.finished_at <= func.clock_timestamp() - DELIVERY_RETENTION)
    )
    named = WebhookEndpoint.protocol == WebhookProtocol.OPENDSR
    unused = ~exists().where(WebhookDelivery.endpoint_id == WebhookEndpoint.id)
    switched_off = WebhookEndpoint.disabled_reason.is_not_distinct_from(DisabledReason.BY_CALLER)
    idle = select(WebhookEndpoint.id).where(named, unused, ~switched_off).with_for_update(skip_locked=True)
    locked = session.scalars(idle).all()
    # Asked again under the lock: a delivery may have been written since.
    session.execute(delete(WebhookEndpoint).where(WebhookEndpoint.id.in_(locked), unused))


def _to_deliveries(session: Session, rows: Sequence[WebhookDelivery]) -> list[resources.Delivery]:
    tries: dict[UUID, list[resources.DeliveryTry]] = {row.id: [] for row in rows}
    made = select(WebhookTry).where(WebhookTry.delivery_id.in_(list(tries))).order_by(WebhookTry.number)
    for one in session.scalars(made):
        tries[one.delivery_id].append(resources.DeliveryTry.model_validate(one))
    return [
        resources.Delivery(
            id=row.id,
            message_id=f"msg_{row.message_id.hex}",
            type=row.type,
            body=json.loads(row.body),
            state=row.state,
            next_try_at=row.next_try_at,
            tries=tuple(tries[row.id]),
            created_at=row.created_at,
            finished_at=row.finished_at,
        )
        for row in rows
    ]
