"""Webhooks: endpoints to which events are sent, and the log of their deliveries."""

import re
from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Request, Response
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StrictBool

from ledger.events.webhooks import (
    add_webhook,
    change_webhook,
    get_webhook,
    list_deliveries,
    list_webhooks,
    remove_webhook,
    replay,
    rotate_secret,
)
from ledger.resources import Delivery, Listing, Page, Webhook, WebhookWithSecret
from ledger.states import DeliveryState, MessageType
from service.http.authentication import Admin, ApiRoute
from service.http.fields import DeliveryCursor, Limit, Text
from service.http.openapi import problems
from service.http.sessions import Ledger

_GROUP = "[0-9A-Fa-f]{1,4}"
_IPV6 = "|".join(
    (
        f"({_GROUP}:){{7}}{_GROUP}",
        f"({_GROUP}:){{1,7}}:",
        *(f"({_GROUP}:){{1,{7 - after}}}(:{_GROUP}){{1,{after}}}" for after in range(1, 7)),
        f":((:{_GROUP}){{1,7}}|:)",
    )
)
_PORT = "6553[0-5]|655[0-2][0-9]|65[0-4][0-9]{2}|6[0-4][0-9]{3}|[1-5][0-9]{4}|[1-9][0-9]{0,3}"
_URL = f'^https?://([A-Za-z0-9._-]+|\\[({_IPV6})\\])(:({_PORT}))?([/?][!"$-~]*)?$'
"""What a message can be sent to: a host by its name or address, a port, a path and a query, all of printable ASCII characters."""


def _deliverable(value: str) -> str:
    """Refuse what no message could be sent to, and what would put a password into the ledger."""
    if re.fullmatch(_URL, value) is None:
        raise ValueError(
            "must be a URL such as https://example.org/hooks, of printable ASCII characters, without a user, a password and a "
            "fragment"
        )
    return value


WebhookUrl = Annotated[
    str,
    Field(
        min_length=1,
        max_length=2000,
        examples=["https://example.org/hooks/expunge"],
        json_schema_extra={"pattern": _URL},
        description="Where messages go, by POST. Public addresses over https; others only within the networks that the operator "
        "allows. No redirect is followed.",
    ),
    AfterValidator(_deliverable),
]
Types = Annotated[
    list[MessageType],
    Field(
        max_length=len(MessageType) * 2,
        fail_fast=True,
        description="The types of message to send to it; none means all.",
    ),
]
Description = Annotated[Text, Field(max_length=200)]


class NewWebhook(BaseModel):
    """An endpoint to which events are to be sent."""

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
    enabled: StrictBool | None = Field(
        default=None, description="False: nothing is sent to it, and what waits for it is given up."
    )


router = APIRouter(route_class=ApiRoute, tags=["webhooks"])

_READ = problems(401, 403, 404, 422, 503)
_WRITE = problems(400, 401, 403, 404, 409, 413, 415, 422, 503)


@router.post(
    "/webhooks",
    status_code=201,
    summary="Add a webhook",
    responses=problems(400, 401, 403, 413, 415, 422, 503),
)
def post_webhook(asked: NewWebhook, request: Request, caller: Admin, ledger: Ledger) -> WebhookWithSecret:
    """Makes an endpoint to which events are sent from now on, and shows its secret, for the signatures of Standard Webhooks."""
    return add_webhook(
        ledger,
        tenant_id=caller.tenant_id,
        url=asked.url,
        types=asked.types,
        description=asked.description,
        key=request.app.state.settings.sample_key_bytes,
    )


@router.get("/webhooks", summary="List the webhooks", responses=problems(401, 403, 422, 503))
def get_webhooks(caller: Admin, ledger: Ledger) -> Listing[Webhook]:
    """All endpoints of the tenant, oldest first, without their secrets."""
    return Listing[Webhook](items=list_webhooks(ledger, tenant_id=caller.tenant_id))


@router.get("/webhooks/{webhook_id:uuid}", summary="One webhook", responses=_READ)
def get_one_webhook(webhook_id: UUID, caller: Admin, ledger: Ledger) -> Webhook:
    """An endpoint, and since when it fails or is disabled."""
    return get_webhook(ledger, tenant_id=caller.tenant_id, webhook_id=webhook_id)


@router.patch("/webhooks/{webhook_id:uuid}", summary="Change a webhook", responses=_WRITE)
def patch_webhook(webhook_id: UUID, asked: WebhookChange, caller: Admin, ledger: Ledger) -> Webhook:
    """Changes an endpoint, disables it or enables it again. 409 for the `url` or `types` of one whose `protocol` is `opendsr`."""
    return change_webhook(
        ledger,
        tenant_id=caller.tenant_id,
        webhook_id=webhook_id,
        url=asked.url,
        types=asked.types,
        description=asked.description,
        enabled=asked.enabled,
    )


@router.delete("/webhooks/{webhook_id:uuid}", status_code=204, summary="Delete a webhook", responses=_READ)
def delete_webhook(webhook_id: UUID, caller: Admin, ledger: Ledger) -> Response:
    """Deletes an endpoint with its deliveries."""
    remove_webhook(ledger, tenant_id=caller.tenant_id, webhook_id=webhook_id)
    return Response(status_code=204)


@router.post(
    "/webhooks/{webhook_id:uuid}:rotate-secret",
    summary="Rotate a webhook's secret",
    responses=problems(401, 403, 404, 409, 422, 503),
)
def post_rotate(webhook_id: UUID, request: Request, caller: Admin, ledger: Ledger) -> WebhookWithSecret:
    """Gives the endpoint a new secret and shows it. For a day every message carries a signature of the old one too.

    409 where the `protocol` is `opendsr`: callbacks are signed with the key of the service's certificate.
    """
    key: bytes = request.app.state.settings.sample_key_bytes
    return rotate_secret(ledger, tenant_id=caller.tenant_id, webhook_id=webhook_id, key=key)


@router.get("/webhooks/{webhook_id:uuid}/deliveries", summary="A webhook's deliveries", responses=_READ)
def get_deliveries(
    webhook_id: UUID,
    caller: Admin,
    ledger: Ledger,
    state: DeliveryState | None = None,
    cursor: DeliveryCursor = None,
    limit: Limit = 50,
) -> Page[Delivery]:
    """A page of the log, newest first: each message with every try to deliver it."""
    return list_deliveries(
        ledger, tenant_id=caller.tenant_id, webhook_id=webhook_id, state=state, cursor=cursor, limit=limit
    )


@router.post(
    "/webhooks/{webhook_id:uuid}/deliveries/{delivery_id:uuid}:replay",
    summary="Deliver a message again",
    responses=problems(401, 403, 404, 409, 422, 503),
)
def post_replay(webhook_id: UUID, delivery_id: UUID, caller: Admin, ledger: Ledger) -> Delivery:
    """Sends the same message again, under the same id, with a new schedule of tries. 409 where the endpoint is disabled."""
    return replay(ledger, tenant_id=caller.tenant_id, webhook_id=webhook_id, delivery_id=delivery_id)
