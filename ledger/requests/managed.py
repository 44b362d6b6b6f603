"""Requests from request managers (a CDP, a privacy portal): each under the manager's own reference, recorded once for ever.

Most people whom a manager asks about are in no training set. Such a request is recorded as well, and completes by itself. For a
while every request is pending, whatever becomes of it: the speed of an answer must not tell who is known.
"""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

from sqlalchemy import ColumnElement, Select, and_, case, func, or_, select, tuple_
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from ledger import resources
from ledger.db import now
from ledger.errors import IdempotencyMismatch, NoSamplesMatch, NoSubjects, TooLate, UnknownRequest
from ledger.requests.cancellation import cancel_request
from ledger.requests.deadlines import due_at
from ledger.requests.submission import check_receipt
from ledger.states import ManagedState, RequestState
from ledger.tables import Dataset, ManagedRequest, UnlearnRequest

BATCH_SIZE = 100
"""How many changes of state are taken in one transaction."""

_OPEN = (ManagedState.PENDING, ManagedState.IN_PROGRESS)


@dataclass(frozen=True, slots=True, kw_only=True)
class Received:
    """What a manager sent: its reference, the SHA-256 (hex) of the body over keyed hashes, the law, when the person asked.

    reply: what it wants back with the result, sealed. If the request comes again, the newer one counts.
    """

    manager: str
    reference: str
    body_sha256: str
    regulation: str
    received_at: datetime
    callback_urls: tuple[str, ...] = ()
    reply: bytes | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Managed:
    """A request as its manager may see it. `failed`: it ended for a model without being served, so it is still owed."""

    tenant_id: UUID
    reference: str
    state: ManagedState
    failed: bool
    due_at: datetime
    received_at: datetime
    callback_urls: tuple[str, ...]
    reply: bytes | None = None


def submit_managed(
    session: Session,
    received: Received,
    submit: Callable[[], resources.UnlearnRequest],
    *,
    tenant_id: UUID,
    quiet: timedelta,
) -> Managed:
    """Record a manager's request once, and give it as it was recorded first if it comes again.

    submit: submits the request that it makes; may raise NoSamplesMatch, which is no error here. quiet: how long it stays pending.
    Raises NoSubjects, InvalidTime, IdempotencyMismatch if the reference came with another body, and what `submit` raises.
    """
    moment = now(session)
    check_receipt(received.received_at, moment)
    knowing = select(Dataset.id).where(Dataset.tenant_id == tenant_id, Dataset.subject_count > 0)
    if session.scalar(knowing.limit(1)) is None:
        # Everybody would be a stranger, and every request would complete.
        raise NoSubjects("no dataset knows whose samples it has; the operator must run expunge subjects import first")
    made = insert(ManagedRequest).values(
        tenant_id=tenant_id,
        manager=received.manager,
        reference=received.reference,
        body_sha256=received.body_sha256,
        due_at=due_at(received.regulation, received.received_at),
        quiet_until=moment + quiet,
        callback_urls=list(received.callback_urls),
    )
    # Of two simultaneous calls the second waits here for the first.
    is_new = session.scalar(made.on_conflict_do_nothing().returning(ManagedRequest.reference)) is not None
    key = (tenant_id, received.manager, received.reference)
    row = session.get_one(ManagedRequest, key, populate_existing=True)
    if row.body_sha256 != received.body_sha256:
        raise IdempotencyMismatch("this request ID was used with another body; take a new ID for a new request")
    if received.reply is not None:
        # Its manager asks again, so it has had no result, or wants it once more.
        row.reply, row.reported = received.reply, None
    if is_new:
        with suppress(NoSamplesMatch), session.begin_nested():
            row.request_id = submit().id
        session.flush()
    return get_managed(session, tenant_id=tenant_id, manager=received.manager, reference=received.reference)


def find_reference(session: Session, *, tenant_id: UUID, manager: str, body_sha256: str) -> str | None:
    """Find the reference of a request whose manager gives it none of its own, by its body. None means that it is new.

    Another call with this body waits until the transaction ends, so of two simultaneous calls one is the first.
    """
    name = func.hashtextextended(f"{tenant_id}/{manager}/{body_sha256}", 0)
    session.execute(select(func.pg_advisory_xact_lock(name)))
    mine = ManagedRequest.manager == manager, ManagedRequest.body_sha256 == body_sha256
    return session.scalar(select(ManagedRequest.reference).where(ManagedRequest.tenant_id == tenant_id, *mine))


def get_managed(session: Session, *, tenant_id: UUID, manager: str, reference: str) -> Managed:
    """Read a manager's request. Raises UnknownRequest."""
    found = session.execute(_one(tenant_id, manager, reference)).one_or_none()
    if found is None:
        raise UnknownRequest(f"there is no request {reference}")
    return _to_managed(*found)


def cancel_managed(session: Session, *, tenant_id: UUID, manager: str, reference: str) -> Managed:
    """Withdraw a manager's request that is pending. Withdrawing it again changes nothing. Raises UnknownRequest, TooLate."""
    found = session.execute(_one(tenant_id, manager, reference).with_for_update(of=ManagedRequest)).one_or_none()
    if found is None:
        raise UnknownRequest(f"there is no request {reference}")
    row, _, state, _ = found
    if state == ManagedState.CANCELLED:
        return _to_managed(*found)
    try:
        if state != ManagedState.PENDING:
            raise TooLate(f"it is {state}")
        if row.request_id is not None:
            cancel_request(session, tenant_id=tenant_id, request_id=row.request_id)
    except TooLate:
        # Without the reason: until the quiet time is over it would tell whether the person is known.
        raise TooLate("the request can no longer be cancelled") from None
    row.cancelled_at = now(session)
    session.flush()
    return get_managed(session, tenant_id=tenant_id, manager=manager, reference=reference)


def take_changes(session: Session, manager: str) -> list[Managed]:
    """Take requests whose state has changed since it was last reported, oldest first, and mark the new state as reported.

    Write what reports it in the same transaction. At most BATCH_SIZE; call it again until it gives none.
    """
    state = _state()
    open_ = or_(ManagedRequest.reported.is_(None), ManagedRequest.reported.in_(_OPEN))
    changed = (
        _all()
        .where(ManagedRequest.manager == manager, open_, state.is_distinct_from(ManagedRequest.reported))
        .order_by(ManagedRequest.created_at)
        .limit(BATCH_SIZE)
        .with_for_update(of=ManagedRequest, skip_locked=True)
    )
    found = session.execute(changed.execution_options(populate_existing=True)).all()
    for row, _, current, _ in found:
        row.reported = ManagedState(current)
    session.flush()
    return [_to_managed(*one) for one in found]


def list_results(session: Session, manager: str, *, after: Managed | None = None) -> list[Managed]:
    """List requests with a reply that have a result to report, an end or a failure that is still owed, oldest first.

    At most BATCH_SIZE; after: the last one of the list before.
    """
    state = _state()
    ended = or_(state.not_in([one.value for one in _OPEN]), and_(state == ManagedState.IN_PROGRESS.value, _failed()))
    unreported = state.is_distinct_from(ManagedRequest.reported)
    chosen = _all().where(ManagedRequest.manager == manager, ManagedRequest.reply.is_not(None), ended, unreported)
    place = tuple_(ManagedRequest.created_at, ManagedRequest.tenant_id, ManagedRequest.reference)
    if after is not None:
        chosen = chosen.where(place > (after.received_at, after.tenant_id, after.reference))
    return [_to_managed(*one) for one in session.execute(chosen.order_by(place).limit(BATCH_SIZE))]


def record_reported(session: Session, request: Managed, manager: str) -> None:
    """Record that a request's result was reported. After its end the reply is not needed any more, and is deleted.

    Changes nothing if the manager has asked again meanwhile: its newer reply has had no result.
    """
    mine = (request.tenant_id, manager, request.reference)
    row = session.get_one(ManagedRequest, mine, with_for_update=True, populate_existing=True)
    if row.reply != request.reply:
        return
    row.reported = request.state
    if request.state not in _OPEN:
        row.reply = None


def _all() -> Select[ManagedRequest, datetime, str, bool]:
    """Select requests, each with its deadline, its state, and whether it failed."""
    due = func.coalesce(UnlearnRequest.due_at, ManagedRequest.due_at)  # an extension moves it
    return select(ManagedRequest, due, _state(), func.coalesce(_failed(), False)).outerjoin(
        UnlearnRequest, UnlearnRequest.id == ManagedRequest.request_id
    )


def _one(tenant_id: UUID, manager: str, reference: str) -> Select[ManagedRequest, datetime, str, bool]:
    mine = ManagedRequest.manager == manager, ManagedRequest.reference == reference
    return _all().where(ManagedRequest.tenant_id == tenant_id, *mine).execution_options(populate_existing=True)


def _failed() -> ColumnElement[bool]:
    """Tell whether a request ended without being served and is still owed; NULL for one that meant nobody known."""
    return and_(UnlearnRequest.finished_at.is_not(None), UnlearnRequest.is_unserved())


def _state() -> ColumnElement[str]:
    """Give the state of a request. What is still owed after a failure is in progress: only an erasure completes a request."""
    waiting = UnlearnRequest.state.in_((RequestState.RECEIVED, RequestState.SCHEDULED))
    begun = ManagedRequest.reported == ManagedState.IN_PROGRESS  # a job that is tried again is scheduled again
    nothing_to_erase = or_(ManagedRequest.request_id.is_(None), UnlearnRequest.state == RequestState.REJECTED)
    withdrawn = and_(UnlearnRequest.state == RequestState.CANCELLED, ~UnlearnRequest.is_unserved())
    return case(
        (ManagedRequest.cancelled_at.is_not(None), ManagedState.CANCELLED.value),
        (ManagedRequest.quiet_until > func.clock_timestamp(), ManagedState.PENDING.value),
        (nothing_to_erase, ManagedState.COMPLETED.value),
        (UnlearnRequest.state == RequestState.COMPLETED, ManagedState.COMPLETED.value),
        (or_(UnlearnRequest.dismissed_at.is_not(None), withdrawn), ManagedState.CANCELLED.value),
        (and_(waiting, begun.is_distinct_from(True)), ManagedState.PENDING.value),
        else_=ManagedState.IN_PROGRESS.value,
    )


def _to_managed(row: ManagedRequest, due: datetime, state: str, failed: bool) -> Managed:
    return Managed(
        tenant_id=row.tenant_id,
        reference=row.reference,
        state=ManagedState(state),
        failed=failed and state == ManagedState.IN_PROGRESS,
        due_at=due,
        received_at=row.created_at,
        callback_urls=tuple(row.callback_urls),
        reply=row.reply,
    )
