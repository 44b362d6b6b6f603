"""Moves between states: the only place that writes `state` of jobs, targets and requests.

Every transaction locks what it needs in this order: the model, jobs, requests, targets, wake-ups; of each the rows in the order of
their models and ids. So no two can deadlock. An event is written under the lock of what it is about: otherwise a later ID could be
committed first, and who polls with `after` would never see the earlier one.
"""

from collections.abc import Collection, Mapping
from typing import TypeVar
from uuid import UUID

from sqlalchemy import select
from sqlalchemy.orm import Session

from ledger.db import now
from ledger.errors import IllegalMove
from ledger.events.outbox import announce_next
from ledger.events.timeline import record
from ledger.states import MOVES, TERMINAL, JobState, Phase, Reason, RequestState, fold
from ledger.tables import Job, Model, Target, UnlearnRequest
from ledger.transparency.log import log_result

Row = TypeVar("Row", Job, Target, UnlearnRequest)

_NOUNS: Mapping[type, str] = {Job: "job", Target: "target", UnlearnRequest: "request"}

_TARGET_STATES = {
    JobState.QUEUED: RequestState.SCHEDULED,
    JobState.RUNNING: RequestState.RUNNING,
    JobState.VERIFYING: RequestState.VERIFYING,
    JobState.COMPLETED: RequestState.COMPLETED,
    JobState.FAILED: RequestState.FAILED,
    JobState.CANCELLED: RequestState.CANCELLED,
}
"""The state of a target by that of its job. A job that awaits approval leaves its targets in their state."""


def advance(
    session: Session,
    table: type[Row],
    ids: Collection[UUID],
    to: JobState | RequestState,
    *,
    data: Mapping[str, object] | None = None,
    **values: object,
) -> list[Row]:
    """Move rows of one table to a state: lock them, check the move, write the state, `values` and an event for each.

    Rows are locked in the order of their ids, so that two callers cannot deadlock, and are read again under the lock (without
    `populate_existing` a row that this session has loaded earlier would be stale). `data` goes into the events.
    Raises IllegalMove, and writes nothing, for a move that is not in `MOVES`.
    """
    noun = _NOUNS[table]
    locked = select(table).where(table.id.in_(ids)).order_by(table.id).with_for_update(key_share=True)
    rows = list(session.scalars(locked.execution_options(populate_existing=True)))
    for row in rows:
        if to not in MOVES[noun].get(row.state, ()):
            raise IllegalMove(f"{noun} {row.id} cannot move from {row.state} to {to}")
    finished_at = now(session) if to in TERMINAL else None
    for row in rows:
        came_from = row.state
        if came_from == RequestState.FAILED and not isinstance(row, Target):
            # A process of an earlier release may have moved it there, without counting.
            row.failures = max(row.failures, 1)
            if isinstance(row, UnlearnRequest) and row.finished_at is not None:
                row.late_failures = max(row.late_failures, int(row.finished_at > row.due_at))
        for name, value in {**values, "state": to, "finished_at": finished_at}.items():
            setattr(row, name, value)
        if finished_at is not None and to == RequestState.FAILED and not isinstance(row, Target):
            row.failures += 1
            if isinstance(row, UnlearnRequest):
                row.late_failures += finished_at > row.due_at
        event = {
            "from": came_from,
            **{name: values[name] for name in ("reason", "detail") if values.get(name)},
            **(data or {}),
        }
        match row:
            case Job():
                record(session, f"job.{to}", {"attempt": row.attempt, **event}, job_id=row.id)
            case Target():
                record(session, f"target.{to}", {"job": row.job_id, **event}, request_id=row.request_id)
            case UnlearnRequest():
                record(session, f"request.{to}", event, request_id=row.id)
    session.flush()
    return rows


def advance_job(
    session: Session,
    job_id: UUID,
    to: JobState,
    *,
    reason: Reason | None = None,
    detail: str | None = None,
    data: Mapping[str, object] | None = None,
    **values: object,
) -> Job:
    """Move a job and the targets that moved along with it so far, and fold their requests. Raises IllegalMove.

    A move that leaves the model free announces the model's next job; one that ends the job is written into the log.
    """
    job = session.get_one(Job, job_id, with_for_update={"key_share": True}, populate_existing=True)
    before, after = _target_state(job.state, job.phase), _target_state(to, values.get("phase", job.phase))
    moving = select(Target.id, Target.request_id).where(Target.job_id == job.id, Target.state == before)
    targets = dict(session.execute(moving).all()) if before != after else {}
    if targets:
        lock_requests(session, targets.values())
    advance(session, Job, [job_id], to, data=data, reason=reason, detail=detail, **values)
    if targets:
        data = {"model": session.get_one(Model, job.model_id).name, **(data or {})}
        advance(session, Target, targets, after, data=data, reason=reason, detail=detail)
        fold_requests(session, targets.values())
    if not job.holds_model:
        announce_next(session, job.model_id)
    if to in TERMINAL:
        log_result(session, job)
    return job


def _target_state(state: JobState, phase: object) -> RequestState:
    """Give the state of the targets of a job in this state and phase."""
    if state == JobState.AWAITING_APPROVAL:
        return RequestState.VERIFYING if phase == Phase.PUBLISH else RequestState.SCHEDULED
    return _TARGET_STATES[state]


def fold_requests(session: Session, request_ids: Collection[UUID]) -> None:
    """Move requests to the states that follow from their targets.

    The requests are locked before their targets are read. If two jobs of one request end at once, the second sees the first.
    """
    current = lock_requests(session, request_ids)
    states: dict[UUID, list[RequestState]] = {}
    targets = select(Target.request_id, Target.state).where(Target.request_id.in_(request_ids))
    for request_id, state in session.execute(targets):
        states.setdefault(request_id, []).append(state)
    moves: dict[RequestState, list[UUID]] = {}
    for request_id, folded in ((request_id, fold(of_request)) for request_id, of_request in states.items()):
        if current[request_id] != folded:
            moves.setdefault(folded, []).append(request_id)
    for to, moved in moves.items():
        advance(session, UnlearnRequest, moved, to)


def lock_requests(session: Session, request_ids: Collection[UUID]) -> dict[UUID, RequestState]:
    """Lock requests in the order of their ids until the transaction ends, and give the state of each.

    Lock them before their targets are moved: the events of both are about the request.
    """
    ordered = select(UnlearnRequest.id, UnlearnRequest.state).where(UnlearnRequest.id.in_(request_ids))
    return dict(session.execute(ordered.order_by(UnlearnRequest.id).with_for_update(key_share=True)).all())
