"""Webhook messages: which events they report, and with which data. They carry ids, states and counts, never what a person wrote."""

import json
from collections.abc import Mapping
from uuid import UUID, uuid4

from sqlalchemy import func, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from ledger.db import now
from ledger.states import DisabledReason, MessageType, WebhookProtocol
from ledger.tables import Job, Model, UnlearnRequest, WebhookDelivery, WebhookEndpoint

_RESULT = ("verdict", "version", "report", "samples")

WEBHOOK_EVENTS: Mapping[str, Mapping[MessageType, tuple[str, ...]]] = {
    "request.received": {MessageType.REQUEST_RECEIVED: ("due_at",)},
    "request.extended": {MessageType.REQUEST_EXTENDED: ("due_at",)},
    "request.overdue": {MessageType.REQUEST_OVERDUE: ("due_at",)},
    "request.completed": {MessageType.REQUEST_COMPLETED: ()},
    "request.failed": {MessageType.REQUEST_FAILED: ()},
    "request.cancelled": {MessageType.REQUEST_CANCELLED: ()},
    "request.dismissed": {MessageType.REQUEST_DISMISSED: ()},
    "job.running": {MessageType.JOB_RUNNING: ("attempt", "method")},
    "job.awaiting_approval": {MessageType.JOB_AWAITING_APPROVAL: ("what", "version")},
    "job.completed": {MessageType.JOB_COMPLETED: ("attempt", *_RESULT)},
    "job.failed": {MessageType.JOB_FAILED: ("attempt", "reason")},
    "job.cancelled": {MessageType.JOB_CANCELLED: ("attempt", "reason")},
    "job.published": {MessageType.REPORT_PUBLISHED: _RESULT, MessageType.VERSION_PUBLISHED: _RESULT},
    "version.promoted": {MessageType.VERSION_PROMOTED: ("version", "before")},
}
"""For each kind of event the types of message that report it, each with the event's data that it carries."""

_SUBJECTS: Mapping[str, type[Job] | type[UnlearnRequest] | type[Model]] = {
    "job_id": Job,
    "request_id": UnlearnRequest,
    "model_id": Model,
}


def queue_messages(session: Session, kind: str, data: Mapping[str, object], *, subject: Mapping[str, UUID]) -> None:
    """Write the deliveries that report an event, in the event's own transaction.

    data: of the event, as JSON. subject: the row that the event happened to, by the name of its id.
    """
    for message_type, names in WEBHOOK_EVENTS.get(kind, {}).items():
        _queue(session, message_type, {name: data[name] for name in names if name in data}, subject)


def _queue(
    session: Session, message_type: MessageType, data: Mapping[str, object], subject: Mapping[str, UUID]
) -> None:
    ((id_name, row_id),) = subject.items()
    table = _SUBJECTS[id_name]
    subscribed = (
        select(WebhookEndpoint.id)
        .join(table, table.tenant_id == WebhookEndpoint.tenant_id)
        .where(table.id == row_id, WebhookEndpoint.disabled_at.is_(None))
        .where(WebhookEndpoint.protocol == WebhookProtocol.STANDARD)
        .where((func.cardinality(WebhookEndpoint.types) == 0) | WebhookEndpoint.types.contains([message_type.value]))
    )
    # The lock only prevents deletion: an endpoint that is deleted at this moment must not make the event's transaction fail.
    endpoints = session.scalars(subscribed.with_for_update(of=WebhookEndpoint, read=True, key_share=True)).all()
    if not endpoints:
        return
    moment = now(session)
    payload = {id_name: str(row_id), **_model_name(session, subject), **data}
    body = json.dumps({"type": message_type, "timestamp": moment.isoformat(), "data": payload}, separators=(",", ":"))
    message_id = uuid4()
    session.add_all(
        WebhookDelivery(
            endpoint_id=endpoint_id, message_id=message_id, type=message_type, body=body, next_try_at=moment
        )
        for endpoint_id in endpoints
    )


def _model_name(session: Session, subject: Mapping[str, UUID]) -> dict[str, str]:
    """The name of the model that an event of a job or of a model is about."""
    if "request_id" in subject:
        return {}
    model_id = subject.get("model_id") or session.get_one(Job, subject["job_id"]).model_id
    return {"model": session.get_one(Model, model_id).name}


OPENDSR_STATUS = "opendsr.status"
"""The type under which the log of deliveries has a status callback."""


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
    endpoint.disabled_at = endpoint.disabled_reason = None
    session.add(
        WebhookDelivery(
            endpoint_id=endpoint.id, message_id=uuid4(), type=OPENDSR_STATUS, body=body, next_try_at=now(session)
        )
    )
    session.flush()
