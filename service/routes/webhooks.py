"""Webhooks: who is told of events, and how each delivery went. What is told is in `ledger.notices`; who sends it, in the worker."""

from uuid import UUID

from fastapi import APIRouter, Request, Response

from ledger import delivery_log, webhooks
from ledger.states import DeliveryState
from ledger.webhook_secrets import webhook_secret
from ledger.webhooks import WebhookView
from service.access import Admin
from service.bodies.webhooks import (
    DeliveriesBody,
    DeliveryBody,
    NewWebhook,
    WebhookBody,
    WebhookChange,
    WebhooksBody,
    WebhookWithSecretBody,
    delivery_body,
    webhook_body,
)
from service.names import Cursor, Limit
from service.openapi import problems
from service.session import Ledger

router = APIRouter(tags=["webhooks"])

_READ = problems(401, 403, 404, 422, 503)
_WRITE = problems(400, 401, 403, 404, 413, 415, 422, 503)


@router.post(
    "/webhooks",
    status_code=201,
    summary="Add a webhook",
    responses=problems(400, 401, 403, 413, 415, 422, 503),
)
def post_webhook(asked: NewWebhook, request: Request, caller: Admin, ledger: Ledger) -> WebhookWithSecretBody:
    """Makes an endpoint that is told of events from now on, and shows its secret, for the signatures of Standard Webhooks."""
    view = webhooks.add_webhook(
        ledger, tenant_id=caller.tenant_id, url=asked.url, types=asked.types, description=asked.description
    )
    return _with_secret(view, request)


@router.get("/webhooks", summary="List the webhooks", responses=problems(401, 403, 503))
def get_webhooks(caller: Admin, ledger: Ledger) -> WebhooksBody:
    """Every endpoint of the tenant, without its secret."""
    return WebhooksBody(
        items=[webhook_body(view) for view in webhooks.list_webhooks(ledger, tenant_id=caller.tenant_id)]
    )


@router.get("/webhooks/{webhook_id:uuid}", summary="One webhook", responses=_READ)
def get_one_webhook(webhook_id: UUID, caller: Admin, ledger: Ledger) -> WebhookBody:
    """An endpoint, and since when it fails or is disabled."""
    return webhook_body(webhooks.get_webhook(ledger, tenant_id=caller.tenant_id, webhook_id=webhook_id))


@router.patch("/webhooks/{webhook_id:uuid}", summary="Change a webhook", responses=_WRITE)
def patch_webhook(webhook_id: UUID, asked: WebhookChange, caller: Admin, ledger: Ledger) -> WebhookBody:
    """Changes an endpoint, disables it or enables it again."""
    view = webhooks.change_webhook(
        ledger,
        tenant_id=caller.tenant_id,
        webhook_id=webhook_id,
        url=asked.url,
        types=asked.types,
        description=asked.description,
        enabled=asked.enabled,
    )
    return webhook_body(view)


@router.delete("/webhooks/{webhook_id:uuid}", status_code=204, summary="Delete a webhook", responses=_READ)
def delete_webhook(webhook_id: UUID, caller: Admin, ledger: Ledger) -> Response:
    """Deletes an endpoint with its deliveries."""
    webhooks.remove_webhook(ledger, tenant_id=caller.tenant_id, webhook_id=webhook_id)
    return Response(status_code=204)


@router.post("/webhooks/{webhook_id:uuid}:rotate-secret", summary="Rotate a webhook's secret", responses=_READ)
def post_rotate(webhook_id: UUID, request: Request, caller: Admin, ledger: Ledger) -> WebhookWithSecretBody:
    """Gives the endpoint a new secret and shows it. For a day every message carries a signature of the old one too."""
    return _with_secret(webhooks.rotate_secret(ledger, tenant_id=caller.tenant_id, webhook_id=webhook_id), request)


@router.get("/webhooks/{webhook_id:uuid}/deliveries", summary="A webhook's deliveries", responses=_READ)
def get_deliveries(
    webhook_id: UUID,
    caller: Admin,
    ledger: Ledger,
    state: DeliveryState | None = None,
    cursor: Cursor = None,
    limit: Limit = 50,
) -> DeliveriesBody:
    """A page of the log, newest first: each message with every try to deliver it."""
    page = delivery_log.list_deliveries(
        ledger, tenant_id=caller.tenant_id, webhook_id=webhook_id, state=state, cursor=cursor, limit=limit
    )
    return DeliveriesBody(items=[delivery_body(view) for view in page.items], next_cursor=page.next_cursor)


@router.post(
    "/webhooks/{webhook_id:uuid}/deliveries/{delivery_id:uuid}:replay",
    summary="Deliver a message again",
    responses=problems(401, 403, 404, 409, 422, 503),
)
def post_replay(webhook_id: UUID, delivery_id: UUID, caller: Admin, ledger: Ledger) -> DeliveryBody:
    """Sends the same message again, under the same id, with a new schedule of tries. 409 where the endpoint is disabled."""
    view = delivery_log.replay(ledger, tenant_id=caller.tenant_id, webhook_id=webhook_id, delivery_id=delivery_id)
    return delivery_body(view)


def _with_secret(view: WebhookView, request: Request) -> WebhookWithSecretBody:
    key: bytes = request.app.state.settings.sample_key_bytes
    secret = webhook_secret(key, view.id, view.generation)
    return WebhookWithSecretBody(**dict(webhook_body(view)), secret=secret)
