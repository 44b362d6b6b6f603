"""The timeline: what happened to a job or a request, in the order in which it happened."""

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from uuid import UUID

from sqlalchemy import ColumnElement, select
from sqlalchemy.orm import Session

from ledger import resources
from ledger.errors import UnknownJob, UnknownModel, UnknownRequest
from ledger.events.messages import queue_messages
from ledger.tables import Event, Job, Model, UnlearnRequest

TEXTS: Mapping[str, str] = {
    "job.opened": "Opened, to take requests until {cut_off} ({why}).",
    "job.joined": "A request for {samples} samples joined.",
    "job.left": "A request was withdrawn.",
    "job.cut_off": "The cut-off moved to {cut_off} ({why}).",
    "job.frozen": "The manifest was frozen with {samples} samples.",
    "job.queued": "Back in the queue for attempt {attempt}: {reason}.",
    "job.running": "Attempt {attempt} runs {method}.",
    "job.phase": "Phase: {phase}.",
    "job.resumed": "Attempt {attempt} goes on from step {step} of {total}, the checkpoint of attempt {of}.",
    "job.checkpoint_ignored": "The checkpoint of attempt {of} was not used, because {why}; the method starts again.",
    "job.checkpoint_failed": "A checkpoint could not be written, because {why}; the run goes on without.",
    "job.write_refused": "Attempt {attempt} was refused a write: it had lost its lease.",
    "job.verifying": "The audit has begun.",
    "job.escalated": "The audit did not verify {method}; the next method follows.",
    "job.cancel_requested": "Cancelling was asked for.",
    "job.superseded": "Nothing was left to erase: an earlier job had done it.",
    "job.awaiting_approval": "Waits for approval: {what}.",
    "job.approved": "Approved by {by}: {what}.",
    "job.refused": "Refused by {by}: {what}.",
    "job.published": "Version {version} is published, with the verdict {verdict}.",
    "job.completed": "Finished.",
    "job.failed": "Failed: {reason}.",
    "job.cancelled": "Cancelled; the served model is untouched.",
    "model.approvals": "Approval before a job runs: {jobs}; before a version is served: {versions}; set by {by}.",
    "version.registered": "Version {version}, trained anew, was registered.",
    "version.promoted": "Version {version} is served instead of version {before}, by {by}.",
    "request.received": "Received, to be answered by {due_at} ({regulation}).",
    "request.extended": "The deadline was extended to {due_at}.",
    "request.overdue": "Overdue: it was to be answered by {due_at}.",
    "request.scheduled": "Every model has a job.",
    "request.running": "Unlearning runs.",
    "request.verifying": "The result is being audited.",
    "request.completed": "Finished for every model.",
    "request.failed": "Ended, and not for every model with a result.",
    "request.cancelled": "Cancelled.",
    "target.scheduled": "{model}: waits in its job's queue.",
    "target.running": "{model}: unlearning runs.",
    "target.verifying": "{model}: the result is being audited.",
    "target.completed": "{model}: erased.",
    "target.failed": "{model}: failed: {reason}.",
    "target.cancelled": "{model}: cancelled.",
    "target.rejected": "{model}: was not trained on any of these samples.",
}
"""Every kind of event with its sentence, filled from the event's data."""


_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d")
_NAME = re.compile(r"[a-z]+(_[a-z]+)+")


class _Blank(dict[str, object]):
    """Data of an event in which what is missing reads as a dash."""

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
    """Write one event, of a job, of a request or of a model, in the caller's transaction, and what tells it to webhook endpoints.

    The data must hold nothing personal.
    """
    assert kind in TEXTS, kind
    plain = {name: _plain(value) for name, value in data.items()}
    session.add(Event(kind=kind, job_id=job_id, request_id=request_id, model_id=model_id, data=plain))
    of = {"job_id": job_id, "request_id": request_id, "model_id": model_id}
    queue_messages(session, kind, plain, subject={name: row_id for name, row_id in of.items() if row_id is not None})


def _plain(value: object) -> object:
    """A value as JSON has it."""
    match value:
        case datetime():
            return value.isoformat()
        case UUID():
            return str(value)
        case _:
            return value


def list_job_events(
    session: Session, *, tenant_id: UUID, job_id: UUID, after: int = 0, limit: int = 1000
) -> list[resources.Event]:
    """A job's timeline, oldest first, from beyond the event `after`. Raises UnknownJob."""
    if session.scalar(select(Job.id).where(Job.id == job_id, Job.tenant_id == tenant_id)) is None:
        raise UnknownJob(f"there is no job {job_id}")
    return _timeline(session, Event.job_id == job_id, after=after, limit=limit)


def list_request_events(
    session: Session, *, tenant_id: UUID, request_id: UUID, after: int = 0, limit: int = 1000
) -> list[resources.Event]:
    """A request's timeline with those of its targets, oldest first, from beyond the event `after`. Raises UnknownRequest."""
    mine = select(UnlearnRequest.id).where(UnlearnRequest.id == request_id, UnlearnRequest.tenant_id == tenant_id)
    if session.scalar(mine) is None:
        raise UnknownRequest(f"there is no request {request_id}")
    return _timeline(session, Event.request_id == request_id, after=after, limit=limit)


def list_model_events(
    session: Session, *, tenant_id: UUID, model: str, after: int = 0, limit: int = 1000
) -> list[resources.Event]:
    """What happened to a model's versions, oldest first, from beyond the event `after`. Raises UnknownModel."""
    model_id = session.scalar(select(Model.id).where(Model.name == model, Model.tenant_id == tenant_id))
    if model_id is None:
        raise UnknownModel(f"there is no model named {model!r}")
    return _timeline(session, Event.model_id == model_id, after=after, limit=limit)


def _timeline(session: Session, of: ColumnElement[bool], *, after: int, limit: int) -> list[resources.Event]:
    chosen = select(Event).where(of, Event.id > after).order_by(Event.id).limit(limit)
    return [_to_event(event) for event in session.scalars(chosen)]


def _to_event(event: Event) -> resources.Event:
    text = TEXTS[event.kind].format_map(_Blank({name: _said(value) for name, value in event.data.items()}))
    return resources.Event(id=event.id, at=event.at, kind=event.kind, text=text, data=event.data)


def _said(value: object) -> object:
    """A value as a sentence has it: times to the minute, names without underscores."""
    if not isinstance(value, str):
        return value
    if _TIME.match(value):
        return f"{datetime.fromisoformat(value).astimezone(UTC):%Y-%m-%d %H:%M} UTC"
    return value.replace("_", " ") if _NAME.fullmatch(value) else value
