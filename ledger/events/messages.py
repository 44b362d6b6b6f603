"""Which events are told to webhook endpoints, and what is told: ids, states and counts, nothing that a person wrote."""

import json
from collections.abc import Mapping
from uuid import UUID, uuid4

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from ledger.db import now
from ledger.states import MessageType
from ledger.tables import Job, Model, UnlearnRequest, WebhookDelivery, WebhookEndpoint

_PUBLISHED = ("verdict", "version", "report", "samples")

WEBHOOK_EVENTS: Mapping[str, Mapping[MessageType, tuple[str, ...]]] = {
    "request.received": {MessageType.REQUEST_RECEIVED: ("due_at",)},
    "request.extended": {MessageType.REQUEST_EXTENDED: ("due_at",)},
    "request.overdue": {MessageType.REQUEST_OVERDUE: ("due_at",)},
    "request.completed": {MessageType.REQUEST_COMPLETED: ()},
    "request.failed": {MessageType.REQUEST_FAILED: ()},
    "request.cancelled": {MessageType.REQUEST_CANCELLED: ()},
    "job.running": {MessageType.JOB_RUNNING: ("attempt", "method")},
    "job.awaiting_approval": {MessageType.JOB_AWAITING_APPROVAL: ("what", "version")},
    "job.completed": {MessageType.JOB_COMPLETED: ("attempt", *_PUBLISHED)},
    "job.failed": {MessageType.JOB_FAILED: ("attempt", "reason")},
    "job.cancelled": {MessageType.JOB_CANCELLED: ("attempt", "reason")},
    "job.published": {
        MessageType.REPORT_PUBLISHED: _PUBLISHED,
        MessageType.VERSION_PUBLISHED: _PUBLISHED,
    },
    "version.promoted": {MessageType.VERSION_PROMOTED: ("version", "before")},
}
"""For each kind of event the messages that tell it, and which of its data they carry."""


_SUBJECTS: Mapping[str, type[Job] | type[UnlearnRequest] | type[Model]] = {
    "job_id": Job,
    "request_id": UnlearnRequest,
    "model_id": Model,
}


def queue_messages(session: Session, kind: str, data: Mapping[str, object], *, subject: Mapping[str, UUID]) -> None:
    """Write the deliveries that tell an event, in the event's own transaction. `subject` names the row that it happened to.

    data: of the event, as JSON has it.
    """
    for message_type, names in WEBHOOK_EVENTS.get(kind, {}).items():
        _write(session, message_type, {name: data[name] for name in names if name in data}, subject)


def _write(
    session: Session, message_type: MessageType, data: Mapping[str, object], subject: Mapping[str, UUID]
) -> None:
    ((of, row_id),) = subject.items()
    table = _SUBJECTS[of]
    wanting = (
        select(WebhookEndpoint.id)
        .join(table, table.tenant_id == WebhookEndpoint.tenant_id)
        .where(table.id == row_id, WebhookEndpoint.disabled_at.is_(None))
        .where((func.cardinality(WebhookEndpoint.types) == 0) | WebhookEndpoint.types.contains([message_type.value]))
    )
    # Locked against deletion only: one that is deleted at this moment must not fail what is told.
    endpoints = session.scalars(wanting.with_for_update(of=WebhookEndpoint, read=True, key_share=True)).all()
    if not endpoints:
        return
    moment = now(session)
    about = {of: str(row_id), **_model(session, subject), **data}
    body = json.dumps({"type": message_type, "timestamp": moment.isoformat(), "data": about}, separators=(",", ":"))
    message_id = uuid4()
    session.add_all(
        WebhookDelivery(
            endpoint_id=endpoint_id, message_id=message_id, type=message_type, body=body, next_try_at=moment
        )
        for endpoint_id in endpoints
    )


def _model(session: Session, subject: Mapping[str, UUID]) -> dict[str, str]:
    """The name of the model that a job or an event of a model is about."""
    if "request_id" in subject:
        return {}
    model_id = subject.get("model_id") or session.get_one(Job, subject["job_id"]).model_id
    return {"model": session.get_one(Model, model_id).name}
