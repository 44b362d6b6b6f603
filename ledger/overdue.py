"""Requests that have passed their date: each is told once, on its timeline and to webhooks."""

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from ledger.clock import now
from ledger.events import record
from ledger.tables import UnlearnRequest


def note_overdue(session: Session, *, limit: int = 500) -> int:
    """Note the open requests whose date has passed since they were last looked at; gives how many there are."""
    passed = select(UnlearnRequest).where(
        UnlearnRequest.finished_at.is_(None),
        UnlearnRequest.overdue_at.is_(None),
        UnlearnRequest.due_at <= func.clock_timestamp(),
    )
    locked = passed.order_by(UnlearnRequest.due_at).limit(limit).with_for_update(key_share=True, skip_locked=True)
    late = list(session.scalars(locked.execution_options(populate_existing=True)))
    moment = now(session)
    for request in late:
        request.overdue_at = moment
        record(session, "request.overdue", {"due_at": request.due_at}, request_id=request.id)
    session.flush()
    return len(late)
