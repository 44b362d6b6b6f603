"""Webhook endpoints and deliveries as the API takes and tells them."""

import json
from datetime import datetime
from typing import Annotated, Any
from urllib.parse import urlsplit
from uuid import UUID

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from ledger.delivery_log import DeliveryView
from ledger.states import DeliveryState, DisabledReason, MessageType, TryOutcome
from ledger.webhooks import WebhookView
from service.names import Text


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
