"""Timelines: the events of a job, a request or a model, in order, and the webhook messages that report them.

Messages carry ids, states and counts, never what a person wrote.
"""

import json
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from uuid import UUID, uuid4

from sqlalchemy import ColumnElement, func, select
from sqlalchemy.orm import Session

from ledger import resources
from ledger.db import now
from ledger.errors import UnknownJob, UnknownModel, UnknownRequest
from ledger.states import MessageType, WebhookProtocol
from ledger.tables import Event, Job, Model, UnlearnRequest, WebhookDelivery, WebhookEndpoint
from report.formatting import plural
from verifier.method_names import short_method

TEXTS: Mapping[str, str] = {
    "job.opened": "Opened. It takes requests until {cut_off} ({why}).",
    "job.joined": "A request for {samples} joined.",
    "job.left": "A request was cancelled or dismissed, and left.",
    "job.cut_off": "It now takes requests until {cut_off} ({why}).",
    "job.frozen": "Closed with {samples}.",
    "job.queued": "Queued for attempt {attempt}: {reason}.",
    "job.running": "Attempt {attempt} runs {method}.",
    "job.phase": "Phase: {phase}.",
    "job.processes": "It runs on several processes: {processes} a host; hosts: {hosts}.",
    "job.resumed": "Attempt {attempt} resumes at step {step} of {total}, from the checkpoint of attempt {of}.",
    "job.checkpoint_ignored": "The checkpoint of attempt {of} was not used because {why}. The method starts again.",
    "job.checkpoint_failed": "A checkpoint could not be written because {why}. The run goes on without it.",
    "job.references_unused": "The reference predictions were not used because {why}. The job goes on without them.",
    "job.write_refused": "A write of attempt {attempt} was refused because its lease had expired.",
    "job.verifying": "The audit has started.",
    "job.escalated": "What {method} made may not be published. The next method follows.",
    "job.fallback": "After {after} comes {method}, which takes {time}. {why}",
    "job.cancel_requested": "Cancellation was requested.",
    "job.superseded": "An earlier job has erased all of these samples.",
    "job.awaiting_approval": "Awaits approval: {what}.",
    "job.approved": "Approved by {by}: {what}.",
    "job.refused": "Refused by {by}: {what}.",
    "job.published": "Version {version} was published with the verdict {verdict}.",
    "job.completed": "Completed.",
    "job.failed": "Failed: {reason}.",
    "job.cancelled": "Cancelled. The served model was not changed.",
    "model.approvals": "{by} set whether approval is needed: before a job runs: {jobs}; before a version is served: {versions}, "
    "or if it lost more than {utility_drop} points of merit.",
    "model.escalation": "{by} set how its jobs go on: escalate {escalate}, wait for {batch_until_samples} samples.",
    "model.policy": "{by} set which methods are tried, in this order: {policy}.",
    "version.registered": "Version {version}, trained by the operator, was registered.",
    "version.promoted": "{by} promoted version {version}. It is served in place of version {before}.",
    "version.handed_over": "{connector} has version {version}.",
    "version.missed": "{connector} does not have version {version} any more: {why}",
    "version.withdrawn": "{connector} has deleted version {version}.",
    "request.received": "Received. An answer is due by {due_at} ({regulation}).",
    "request.extended": "The deadline was extended to {due_at}.",
    "request.overdue": "Overdue: an answer was due by {due_at}.",
    "request.scheduled": "Every model has a job.",
    "request.running": "Unlearning is running.",
    "request.verifying": "The results are being audited.",
    "request.completed": "Completed for every model.",
    "request.failed": "Ended, but failed for at least one model.",
    "request.cancelled": "Cancelled.",
    "request.rejected": "Ended: no model was trained on any of the samples.",
    "request.dismissed": "Dismissed by {by}: {reason}",
    "target.scheduled": "{model}: queued.",
    "target.running": "{model}: unlearning is running.",
    "target.verifying": "{model}: the result is being audited.",
    "target.completed": "{model}: erased.",
    "target.failed": "{model}: failed: {reason}.",
    "target.cancelled": "{model}: cancelled.",
    "target.rejected": "{model}: not trained on any of these samples.",
}
"""The sentence for each kind of event. Its gaps are filled from the event's data."""

METHODS = ("method", "after")
"""The gaps that name a method."""

COUNTS = {"samples": "sample"}
"""The gaps that count something, with what."""

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

_TABLES: Mapping[str, type[Job] | type[UnlearnRequest] | type[Model]] = {
    "job_id": Job,
    "request_id": UnlearnRequest,
    "model_id": Model,
}

_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d")
_NAME = re.compile(r"[a-z]+(_[a-z]+)+")


class _Blank(dict[str, object]):
    """An event's data, in which a value that is missing or none reads as a dash."""

    def __missing__(self, key: str) -> str:
        return "–"


def record(
    session: Session,
    kind: str,
    data: Mapping[str, object],
    *,
    job_id: UUID | None = None,
    request_id: UUID | None = None,
    model_id: UUID | None = None,
) -> None:
    """Write an event of a job, a request or a model, and the webhook messages that report it, in the caller's transaction.

    The data must hold nothing personal.
    """
    assert kind in TEXTS, kind
    plain = {name: _plain(value) for name, value in data.items()}
    session.add(Event(kind=kind, job_id=job_id, request_id=request_id, model_id=model_id, data=plain))
    ids = {"job_id": job_id, "request_id": request_id, "model_id": model_id}
    ((id_name, row_id),) = ((name, found) for name, found in ids.items() if found is not None)
    for message_type, names in WEBHOOK_EVENTS.get(kind, {}).items():
        _queue_message(session, message_type, {name: plain[name] for name in names if name in plain}, id_name, row_id)


def _queue_message(
    session: Session, message_type: MessageType, data: Mapping[str, object], id_name: str, row_id: UUID
) -> None:
    """Write the deliveries of a message about the row that a column of the event names, such as `job_id`."""
    table = _TABLES[id_name]
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
    payload = {id_name: str(row_id), **_model_name(session, id_name, row_id), **data}
    body = json.dumps({"type": message_type, "timestamp": moment.isoformat(), "data": payload}, separators=(",", ":"))
    message_id = uuid4()
    session.add_all(
        WebhookDelivery(
            endpoint_id=endpoint_id, message_id=message_id, type=message_type, body=body, next_try_at=moment
        )
        for endpoint_id in endpoints
    )


def _model_name(session: Session, id_name: str, row_id: UUID) -> dict[str, str]:
    """The name of the model that an event of a job or of a model is about."""
    if id_name == "request_id":
        return {}
    model_id = row_id if id_name == "model_id" else session.get_one(Job, row_id).model_id
    return {"model": session.get_one(Model, model_id).name}


def _plain(value: object) -> object:
    """Turn a value into one that JSON has."""
    match value:
        case datetime():
            return value.isoformat()
        case UUID():
            return str(value)
        case _:
            return value


def list_job_events(
    session: Session, *, tenant_id: UUID, job_id: UUID, after: int = 0, limit: int | None = 1000
) -> list[resources.Event]:
    """A job's timeline, oldest first, after the event `after`. limit: None for all of it. Raises UnknownJob."""
    if session.scalar(select(Job.id).where(Job.id == job_id, Job.tenant_id == tenant_id)) is None:
        raise UnknownJob(f"there is no job {job_id}")
    return _timeline(session, Event.job_id == job_id, after=after, limit=limit)


def list_request_events(
    session: Session, *, tenant_id: UUID, request_id: UUID, after: int = 0, limit: int = 1000
) -> list[resources.Event]:
    """A request's timeline with those of its targets, oldest first, after the event `after`. Raises UnknownRequest."""
    mine = select(UnlearnRequest.id).where(UnlearnRequest.id == request_id, UnlearnRequest.tenant_id == tenant_id)
    if session.scalar(mine) is None:
        raise UnknownRequest(f"there is no request {request_id}")
    return _timeline(session, Event.request_id == request_id, after=after, limit=limit)


def list_newest_events(
    session: Session, *, tenant_id: UUID, job_id: UUID | None = None, request_id: UUID | None = None, limit: int = 1000
) -> tuple[list[resources.Event], int]:
    """Give the newest events of a tenant's job, or else of its request, oldest first, and how many there are before them."""
    if job_id is not None:
        of_job = select(Job.id).where(Job.id == job_id, Job.tenant_id == tenant_id)
        mine = Event.job_id.in_(of_job)
    else:
        of_request = select(UnlearnRequest.id).where(
            UnlearnRequest.id == request_id, UnlearnRequest.tenant_id == tenant_id
        )
        mine = Event.request_id.in_(of_request)
    newest = session.scalars(select(Event).where(mine).order_by(Event.id.desc()).limit(limit)).all()[::-1]
    before = select(func.count()).where(mine, Event.id < (newest[0].id if newest else 0))
    return [_to_event(event) for event in newest], session.scalars(before).one()


def list_model_events(
    session: Session, *, tenant_id: UUID, model: str, after: int = 0, limit: int = 1000
) -> list[resources.Event]:
    """What happened to a model's versions, oldest first, after the event `after`. Raises UnknownModel."""
    model_id = session.scalar(select(Model.id).where(Model.name == model, Model.tenant_id == tenant_id))
    if model_id is None:
        raise UnknownModel(f"there is no model named {model!r}")
    return _timeline(session, Event.model_id == model_id, after=after, limit=limit)


def _timeline(session: Session, of: ColumnElement[bool], *, after: int, limit: int | None) -> list[resources.Event]:
    chosen = select(Event).where(of, Event.id > after).order_by(Event.id).limit(limit)
    return [_to_event(event) for event in session.scalars(chosen)]


def _to_event(event: Event) -> resources.Event:
    given = {name: _readable(value, of=name) for name, value in event.data.items() if value is not None}
    # A newer process of a rolling upgrade may have recorded a kind that this one does not know.
    text = TEXTS.get(event.kind, event.kind).format_map(_Blank(given))
    return resources.Event(id=event.id, at=event.at, kind=event.kind, text=text, data=event.data)


def _readable(value: object, *, of: str) -> object:
    """Write the value of a gap as a sentence has it: times to the minute, names without underscores, what is counted."""
    if isinstance(value, str) and of in METHODS:
        return short_method(value)
    if isinstance(value, list) and of == "policy":
        return ", ".join(short_method(spec["kind"]) for spec in value)
    if isinstance(value, int) and of in COUNTS:
        return plural(value, COUNTS[of])
    if not isinstance(value, str):
        return value
    if _TIME.match(value):
        return f"{datetime.fromisoformat(value).astimezone(UTC):%Y-%m-%d %H:%M} UTC"
    return value.replace("_", " ") if _NAME.fullmatch(value) else value
