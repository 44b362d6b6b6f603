"""Checks that a connected system asks for: its signed messages that something has changed there.

A message is only a reason to check at once what would be checked within `CHECK_INTERVAL` anyway. So one that is lost, or that lies,
changes nothing.
"""

from datetime import datetime, timedelta

from sqlalchemy import delete, func, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from ledger.db import now
from ledger.errors import MessageExpired, MessageRepeated
from ledger.events.hand_overs import CURRENT, MAX_WAIT
from ledger.states import HandOverState
from ledger.tables import HandOver, Model, RequestedCheck

TOLERANCE = timedelta(minutes=5)
"""How far a message's own time may be from now, either way: a message that was kept back is refused."""

MESSAGE_RETENTION = timedelta(hours=1)
"""How long a message's ID is remembered: longer than its time could be accepted again."""


def request_check(session: Session, *, connector: str, delivery_id: str, sent_at: datetime, model: str | None) -> None:
    """Record a message whose signature was checked. model: the name of the model that it is about; None for any.

    Raises MessageExpired if it is too old or from the future, and MessageRepeated if it has come before.
    """
    if abs(now(session) - sent_at) > TOLERANCE:
        raise MessageExpired(f"the message was sent more than {TOLERANCE.seconds // 60} minutes ago, or later than now")
    row = insert(RequestedCheck).values(connector=connector, delivery_id=delivery_id, model=model)
    made = row.on_conflict_do_nothing().returning(RequestedCheck.delivery_id)
    if session.scalar(made) is None:
        raise MessageRepeated("this message has come before")


def take_requested_checks(session: Session, connector: str) -> None:
    """Make the connector's hand-overs due that its messages are about.

    While such a hand-over is being worked on, its message is kept for the next call: the work may have begun before the change.
    """
    messages = select(RequestedCheck).where(RequestedCheck.connector == connector, RequestedCheck.taken_at.is_(None))
    waiting = session.scalars(messages.with_for_update(skip_locked=True)).all()
    if not waiting:
        return
    moment = now(session)
    mine = (HandOver.connector == connector) & HandOver.state.in_(CURRENT)
    held = select(Model.name).join(HandOver, HandOver.model_id == Model.id)
    busy = set(session.scalars(held.where(mine, HandOver.next_try_at > moment + MAX_WAIT)))
    taken = [one for one in waiting if one.model not in busy and (one.model is not None or not busy)]
    if not taken:
        return
    for one in taken:
        one.taken_at = moment
    names = {one.model for one in taken}
    chosen = mine & (HandOver.state == HandOverState.DELIVERED)
    if None not in names:
        chosen &= HandOver.model_id.in_(select(Model.id).where(Model.name.in_(names)))
    session.execute(update(HandOver).where(chosen).values(next_try_at=moment))


def delete_expired_messages(session: Session) -> None:
    """Delete messages that are older than MESSAGE_RETENTION."""
    old = RequestedCheck.received_at <= func.clock_timestamp() - MESSAGE_RETENTION
    session.execute(delete(RequestedCheck).where(old))
