"""Webhook endpoints and deliveries as the API takes and tells them."""

import json
from datetime import datetime
from typing import Annotated, Any
from urllib.parse import urlsplit
from uuid import UUID

from fastapi import APIRouter, Request, Response
from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from ledger.events import deliveries as delivery_log
from ledger.events import webhooks
from ledger.events.deliveries import DeliveryView
from ledger.events.webhooks import WebhookView, webhook_secret
from ledger.states import DeliveryState, DisabledReason, MessageType, TryOutcome
from service.http.authentication import Admin
from service.http.fields import Cursor, Limit, Text
from service.http.openapi import problems
from service.http.sessions import Ledger


def _deliverable(value: str) -> str:
    """Refuse what no message could be sent to, and what would put a password into the ledger."""
    if not value.isascii() or not value.isprintable() or " " in value:
        raise ValueError("must be a URL of printable ASCII characters")
    try:
        parts = urlsplit(value)
        sendable = parts.scheme in {"https", "http"} and bool(parts.hostname) and parts.port != 0
    except ValueError:
        sendable = False
    if not sendable:
        raise ValueError("must be a URL such as https://example.org/hooks")
    if parts.username is not None or parts.password is not None or parts.fragment:
        raise ValueError("must be a URL without a user, a password and a fragment")
    return value


WebhookUrl = Annotated[
    str,
    Field(
        min_length=1,
        max_length=2000,
        examples=["https://example.org/hooks/expunge"],
        description="Where messages go, by POST. Public addresses over https; others only within the networks that the operator "
        "allows. No redirect is followed.",
    ),
    AfterValidator(_deliverable),
]
Types = Annotated[
    list[MessageType],
    Field(max_length=len(MessageType) * 2, description="The types of message that it wants; none means all."),
]
Description = Annotated[Text, Field(max_length=200)]


class NewWebhook(BaseModel):
    """An endpoint to tell."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    url: WebhookUrl
    types: Types = Field(default_factory=list)
    description: Description | None = None


class WebhookChange(BaseModel):
    """What to change of an endpoint; what is left out or null stays."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    url: WebhookUrl | None = None
    types: Types | None = None
    description: Description | None = None
    enabled: bool | None = Field(
        default=None, description="False: it is told nothing, and what waits for it is given up."
    )


class WebhookBody(BaseModel):
    """An endpoint that is told what happens."""

    id: UUID
    url: str
    types: list[MessageType] = Field(description="Empty: all.")
    description: str | None
    enabled: bool
    disabled_at: datetime | None
    disabled_reason: DisabledReason | None
    failing_since: datetime | None = Field(description="Since then no try has succeeded.")
    rotated_at: datetime | None = Field(
        description="When its secret was rotated; the one before signs along for a day."
    )
    created_at: datetime


class WebhookWithSecretBody(WebhookBody):
    """An endpoint with its secret."""

    secret: str = Field(
        description="Verifies `webhook-signature` (Standard Webhooks). Shown here only; rotate it if it is lost.",
        examples=["whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"],
    )


class WebhooksBody(BaseModel):
    """All endpoints of the tenant, oldest first."""

    items: list[WebhookBody]


class TryBody(BaseModel):
    """One try at a delivery."""

    model_config = ConfigDict(from_attributes=True)

    number: int
    outcome: TryOutcome
    status: int | None = Field(description="The HTTP status, where there was an answer.")
    seconds: float
    at: datetime


class DeliveryBody(BaseModel):
    """A message for one endpoint, and how each try to deliver it went."""

    id: UUID
    message_id: str = Field(description="The header `webhook-id`: the same at every try.")
    type: str
    body: dict[str, Any] = Field(description="What is sent.")
    state: DeliveryState
    next_try_at: datetime | None
    tries: list[TryBody]
    created_at: datetime
    finished_at: datetime | None


class DeliveriesBody(BaseModel):
    """A page of an endpoint's deliveries, newest first."""

    items: list[DeliveryBody]
    next_cursor: str | None = Field(description="Pass as `cursor` for the next page; null on the last.")


def webhook_body(view: WebhookView) -> WebhookBody:
    """An endpoint as its body."""
    return WebhookBody(
        id=view.id,
        url=view.url,
        types=list(view.types),
        description=view.description,
        enabled=view.disabled_at is None,
        disabled_at=view.disabled_at,
        disabled_reason=view.disabled_reason,
        failing_since=view.failing_since,
        rotated_at=view.rotated_at,
        created_at=view.created_at,
    )


def delivery_body(view: DeliveryView) -> DeliveryBody:
    """A delivery as its body."""
    return DeliveryBody(
        id=view.id,
        message_id=f"msg_{view.message_id.hex}",
        type=view.type,
        body=json.loads(view.body),
        state=view.state,
        next_try_at=view.next_try_at,
        tries=[TryBody.model_validate(each) for each in view.tries],
        created_at=view.created_at,
        finished_at=view.finished_at,
    )


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
