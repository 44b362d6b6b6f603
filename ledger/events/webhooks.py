"""Webhook endpoints: add, change and disable them, and derive their secrets."""

import base64
import hmac
from collections.abc import Sequence
from datetime import timedelta
from uuid import UUID

from sqlalchemy import delete, select, update
from sqlalchemy.orm import Session

from ledger import resources
from ledger.db import now
from ledger.errors import CallbackAddress, UnknownWebhook
from ledger.states import DeliveryState, DisabledReason, MessageType, WebhookProtocol
from ledger.tables import WebhookDelivery, WebhookEndpoint

SECRET_OVERLAP = timedelta(hours=24)
"""How long after a rotation messages are signed with the old secret too."""


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
