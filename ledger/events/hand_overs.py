"""Hand-overs: which version each connected system has to have, what is due to be done there, and what came of it.

Nothing is written when a version is published or promoted: a hand-over is planned afterwards, from what the ledger says is served.
So none is lost, and a failure undoes no publication. A system that does not answer is tried until it does, or until another
version is promoted; one that has confirmed is asked again every `CHECK_INTERVAL`.

A system may send a signed message that something has changed there. It is only a reason to check at once what would be checked
within `CHECK_INTERVAL` anyway. So a message that is lost, or that lies, changes nothing.
"""

import logging
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cache
from random import Random
from typing import Any
from uuid import UUID

from sqlalchemy import ColumnElement, delete, func, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from ledger.db import allow_long_statements, now
from ledger.errors import MessageExpired, MessageRepeated
from ledger.events.timeline import record
from ledger.events.webhooks import wait_after
from ledger.metrics import increment_tally
from ledger.states import OWED, HandOverState, Verdict
from ledger.tables import HandOver, Job, Model, ModelVersion, Report, RequestedCheck, Tenant

logger = logging.getLogger(__name__)

CHECK_INTERVAL = timedelta(minutes=5)
"""How long after a system has confirmed a version it is asked again."""

MAX_WAIT = timedelta(minutes=15)
"""The longest wait between two tries: until one succeeds the system may serve people who were erased."""

VISIBILITY_TIMEOUT = timedelta(minutes=30)
"""How long a hand-over that was taken is hidden: longer than it takes to send the weights. Then another beat may take it."""

MISSED = "hand_overs_missed"
"""The name of the tally of versions that a system had confirmed and does not serve any more, by connector."""

TOLERANCE = timedelta(minutes=5)
"""How far the own time of a system's message may be from now, either way: a message that was kept back is refused."""

MESSAGE_RETENTION = timedelta(hours=1)
"""How long a message's ID is remembered: longer than its time could be accepted again."""

CURRENT = (HandOverState.PENDING, HandOverState.DELIVERED)
"""The states of the version that a system is to have now."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HandedVersion:
    """A model version as a connector gets it, and what is to be done with it.

    state: `pending`: the system is to have and serve it. `delivered`: check that it still does. `withdrawing`: delete it there.
    weights_path: the name of the file in the storage. predecessor: the number of the version that a job has made it from; None for
    a trained one. samples: how many it was made to forget. verdict, report_id, report_sha256, statement: of its audit; None for a
    trained version, and the statement also where nothing is signed. signature: of the weights, by OpenSSF model signing. knowing:
    the numbers of the model's versions that know samples which were erased since. place: what the connector said when it handed
    the version over. held_until: it is this try's so long.
    """

    id: UUID
    state: HandOverState
    connector: str
    tenant: str
    model: str
    version: int
    weights_sha256: str
    weights_path: str
    predecessor: int | None
    samples: int
    verdict: Verdict | None
    report_id: UUID | None
    report_sha256: str | None
    statement: Mapping[str, Any] | None
    signature: Mapping[str, Any] | None
    knowing: frozenset[int]
    place: str | None
    held_until: datetime


def plan_hand_overs(
    session: Session, *, connector: str, tenant: str, concerns: Callable[[str], bool], withdraws: bool
) -> None:
    """Bring a connector's hand-overs up to date with the ledger: one for the served version of each model that it concerns.

    concerns: tells by a model's name. withdraws: whether the system can delete; then versions that were purged here are withdrawn.
    A tenant that the ledger does not know has no model yet: the log says so once a process.
    """
    of_tenant = session.scalar(select(Tenant.id).where(Tenant.name == tenant))
    if of_tenant is None:
        _report_unknown_tenant(connector, tenant)
    found = (
        select(Model.id, Model.name, HandOver.version_id == Model.served_version_id)
        .outerjoin(HandOver, (HandOver.model_id == Model.id) & _is_current(connector))
        .where(Model.tenant_id == of_tenant)
        .order_by(Model.id)  # as everyone locks them
    )
    for model_id, name, is_planned in session.execute(found).all():
        concerned = concerns(name)
        if is_planned is not (True if concerned else None):
            _plan_hand_over(session, connector, model_id, concerned=concerned)
    if withdraws:
        _withdraw_purged(session, connector)


def _is_current(connector: str) -> ColumnElement[bool]:
    return (HandOver.connector == connector) & HandOver.state.in_(CURRENT)


def _plan_hand_over(session: Session, connector: str, model_id: UUID, *, concerned: bool) -> None:
    """Plan the hand-over of a model's served version in place of an earlier one, or none if it does not concern the connector."""
    # Until the end of the transaction nothing is promoted, and no other beat plans.
    locked = select(Model).where(Model.id == model_id).with_for_update(key_share=True)
    model = session.scalars(locked.execution_options(populate_existing=True)).one()
    mine = (HandOver.model_id == model_id) & _is_current(connector)
    before = session.scalar(select(HandOver).where(mine).execution_options(populate_existing=True))
    if concerned and before is not None and before.version_id == model.served_version_id:
        return  # Another beat has just planned it.
    _supersede(session, mine)
    if concerned:
        moment = now(session)
        # If the system did not take the version before this one either, it has been late since that one was due.
        since = before.since if before is not None and before.state == HandOverState.PENDING else moment
        row = HandOver(connector=connector, model_id=model_id, version_id=model.served_version_id, since=since)
        row.next_try_at = moment
        session.add(row)
        session.flush()


def _withdraw_purged(session: Session, connector: str) -> None:
    """Have the versions that were purged here deleted at the system too."""
    purged = select(ModelVersion.id).where(ModelVersion.purged_at.is_not(None))
    due = (HandOver.connector == connector) & (HandOver.state == HandOverState.SUPERSEDED)
    due &= HandOver.tried_at.is_not(None) & HandOver.version_id.in_(purged)
    at = func.clock_timestamp()
    values = {"state": HandOverState.WITHDRAWING, "failures": 0, "since": at, "next_try_at": at}
    session.execute(update(HandOver).where(due).values(**values).execution_options(synchronize_session=False))


@cache
def _report_unknown_tenant(connector: str, tenant: str) -> None:
    logger.error(
        "the connector %s gets nothing: there is no tenant %r; correct `tenant` in EXPUNGE_CONNECTORS",
        connector,
        tenant,
    )


def retire_hand_overs(session: Session, *, keep: Collection[str]) -> None:
    """Give up what is owed to connectors that are not configured any more."""
    _supersede(session, HandOver.connector.not_in(keep) & HandOver.state.in_(OWED))


def _supersede(session: Session, rows: ColumnElement[bool]) -> None:
    values = {"state": HandOverState.SUPERSEDED, "next_try_at": None, "since": func.clock_timestamp()}
    session.execute(update(HandOver).where(rows).values(**values).execution_options(synchronize_session=False))


def take_hand_over(session: Session, connector: str) -> HandedVersion | None:
    """Take the connector's hand-over that is due for longest, and hide it from others. None if nothing is due."""
    moment = now(session)
    # One that is put off for longer than any is was put off before the database's clock stepped back.
    due_at = HandOver.next_try_at
    is_due = (due_at <= moment) | (due_at > moment + VISIBILITY_TIMEOUT)
    due = select(HandOver).where(HandOver.connector == connector, is_due)
    first = due.order_by(HandOver.next_try_at).limit(1).with_for_update(skip_locked=True)
    row = session.scalar(first.execution_options(populate_existing=True))
    if row is None:
        return None
    row.next_try_at = moment + VISIBILITY_TIMEOUT
    row.tried_at = row.tried_at or moment
    session.flush()
    return _read_version(session, row, held_until=row.next_try_at)


def _read_version(session: Session, row: HandOver, *, held_until: datetime) -> HandedVersion:
    """Read the version of a hand-over that was just taken, with what a connector may tell the system about it."""
    found = (
        select(Tenant.name, Model.name, ModelVersion, Report)
        .join_from(ModelVersion, Model, Model.id == ModelVersion.model_id)
        .join(Tenant, Tenant.id == Model.tenant_id)
        .outerjoin(Report, Report.version_id == ModelVersion.id)
        .where(ModelVersion.id == row.version_id)
    )
    tenant, model, version, report = session.execute(found).one()
    base = select(ModelVersion.number).join(Job, Job.base_version_id == ModelVersion.id)
    knowing = select(ModelVersion.number).where(ModelVersion.model_id == row.model_id, ModelVersion.knows_erased)
    return HandedVersion(
        id=row.id,
        state=row.state,
        connector=row.connector,
        tenant=tenant,
        model=model,
        version=version.number,
        weights_sha256=version.weights_sha256,
        weights_path=version.weights_path,
        predecessor=session.scalar(base.where(Job.id == version.job_id)),
        samples=0 if report is None else report.samples,
        verdict=None if report is None else report.verdict,
        report_id=None if report is None else report.id,
        report_sha256=None if report is None else report.sha256,
        statement=None if report is None else report.statement,
        signature=version.signature,
        knowing=frozenset(session.scalars(knowing)),
        place=row.place,
        held_until=held_until,
    )


def record_success(session: Session, taken: HandedVersion, *, place: str | None = None) -> None:
    """Record that the system has what it should have, or has deleted what it should delete."""
    row = _lock(session, taken, with_model=taken.state != HandOverState.DELIVERED)
    moment, data = now(session), {"connector": taken.connector, "version": taken.version}
    if taken.state == HandOverState.WITHDRAWING:
        row.withdrawn_at = moment
        if _is_held(row, taken):
            _move(row, HandOverState.WITHDRAWN, moment, next_try_at=None)
            record(session, "version.withdrawn", data, model_id=row.model_id)
        return
    row.place, row.delivered_at = place or row.place, row.delivered_at or moment
    if not _is_held(row, taken):  # Another version was promoted meanwhile.
        return
    if taken.state == HandOverState.PENDING:
        _move(row, HandOverState.DELIVERED, moment, next_try_at=moment + CHECK_INTERVAL)
        record(session, "version.handed_over", data, model_id=row.model_id)
    else:
        row.next_try_at = moment + CHECK_INTERVAL


def record_failure(session: Session, taken: HandedVersion, *, why: str, random: Random | None = None) -> None:
    """Record that a try failed, and schedule the next one. A system that has lost a version is to get it again at once.

    why: a sentence for the operator.
    """
    row = _lock(session, taken, with_model=taken.state == HandOverState.DELIVERED)
    if not _is_held(row, taken):
        return
    moment = now(session)
    if taken.state == HandOverState.DELIVERED:
        _move(row, HandOverState.PENDING, moment, next_try_at=moment)
        data = {"connector": taken.connector, "version": taken.version, "why": why}
        record(session, "version.missed", data, model_id=row.model_id)
        increment_tally(session, MISSED, taken.connector)
    else:
        row.next_try_at = moment + min(wait_after(row.failures, random or Random()), MAX_WAIT)
        row.failures += 1
    row.detail = why


def _lock(session: Session, taken: HandedVersion, *, with_model: bool) -> HandOver:
    """Lock a hand-over. with_model: lock its model first, on whose timeline an event will be."""
    if with_model:
        # A job of the model may hold it for as long, and a result that is not recorded is sent again.
        allow_long_statements(session)
        mine = select(HandOver.model_id).where(HandOver.id == taken.id).scalar_subquery()
        session.execute(select(Model.id).where(Model.id == mine).with_for_update(key_share=True))
    return session.get_one(HandOver, taken.id, with_for_update=True, populate_existing=True)


def _is_held(row: HandOver, taken: HandedVersion) -> bool:
    """Whether the row is as this try has left it: neither superseded nor taken by another beat since."""
    return row.state == taken.state and row.next_try_at == taken.held_until


def _move(row: HandOver, state: HandOverState, moment: datetime, *, next_try_at: datetime | None) -> None:
    row.state, row.since, row.next_try_at, row.failures, row.detail = state, moment, next_try_at, 0, None


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
    mine = _is_current(connector)
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
