"""Legal deadlines: when an erasure request must be answered, by regulation."""

from calendar import monthrange
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from types import MappingProxyType
from uuid import UUID

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from ledger import resources
from ledger.db import now
from ledger.errors import InvalidTime, TooLate, UnknownRegulation
from ledger.events.timeline import record
from ledger.requests.requests import find_request, get_request
from ledger.tables import UnlearnRequest


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """The time from receipt to answer, and what an extension adds to it. `source` cites the law."""

    title: str
    source: str
    months: int = 0
    days: int = 0
    extension_months: int = 0
    extension_days: int = 0


RULES: Mapping[str, Rule] = MappingProxyType(
    {
        "gdpr": Rule(title="EU GDPR", source="Regulation (EU) 2016/679, Art. 12(3)", months=1, extension_months=2),
        "uk_gdpr": Rule(
            title="UK GDPR", source="UK GDPR, Art. 12(3); Data Protection Act 2018", months=1, extension_months=2
        ),
        "ccpa": Rule(title="California CCPA", source="Cal. Civ. Code § 1798.130(a)(2)(A)", days=45, extension_days=45),
        "vcdpa": Rule(title="Virginia CDPA", source="Va. Code § 59.1-577(B)(1)", days=45, extension_days=45),
        "cpa": Rule(title="Colorado Privacy Act", source="C.R.S. § 6-1-1306(2)", days=45, extension_days=45),
        "ctdpa": Rule(title="Connecticut DPA", source="Conn. Gen. Stat. § 42-518(c)(1)", days=45, extension_days=45),
    }
)
"""The rule of each regulation. Days have 24 hours. Months end on the same day of a later month."""


def rule(regulation: str) -> Rule:
    """Find the rule of a regulation. Raises UnknownRegulation."""
    try:
        return RULES[regulation]
    except KeyError:
        raise UnknownRegulation(f"no rule for the regulation {regulation!r}; known are {', '.join(RULES)}") from None


def due_at(regulation: str, received_at: datetime, *, extended: bool = False) -> datetime:
    """Give the deadline of a request: at the same time of day as its receipt, in the time zone of `received_at`.

    A month that lacks the day ends on its last day (Regulation 1182/71, Art. 3(2)(c)): 31 January gives 28 or 29 February.
    An extension counts from receipt, so 31 January extended by two months is 30 April, not 28 April. Weekends and holidays are
    ignored, because they could only move the deadline later. Raises UnknownRegulation, and InvalidTime for a time without a zone.
    """
    of = rule(regulation)
    if received_at.tzinfo is None:
        raise InvalidTime("received_at must have a time zone, as in 2026-01-31T09:00:00Z")
    months, days = of.months, of.days
    if extended:
        months, days = months + of.extension_months, days + of.extension_days
    return _months_later(received_at, months) + timedelta(days=days)


def _months_later(moment: datetime, months: int) -> datetime:
    years, month = divmod(moment.month - 1 + months, 12)
    year = moment.year + years
    return moment.replace(year=year, month=month + 1, day=min(moment.day, monthrange(year, month + 1)[1]))


def extended_due_at(request: UnlearnRequest) -> datetime:
    """Give the extended deadline of a request, counted in the zone in which it was received.

    If the zone was not kept, it is the earliest over all zones that give the first deadline.
    """
    kept = request.received_offset
    offsets = range(-14 * 3600, 14 * 3600 + 1, 900) if kept is None else (kept,)
    receipts = [request.received_at.astimezone(timezone(timedelta(seconds=offset))) for offset in offsets]
    matching = [receipt for receipt in receipts if due_at(request.regulation, receipt) == request.due_at]
    return min(due_at(request.regulation, receipt, extended=True) for receipt in matching or receipts)


def mark_overdue(session: Session, *, limit: int = 500) -> int:
    """Mark unserved requests whose deadline has passed as overdue, at most `limit`, and return how many were marked."""
    passed = select(UnlearnRequest).where(
        UnlearnRequest.is_unserved(),
        UnlearnRequest.overdue_at.is_(None),
        UnlearnRequest.due_at <= func.clock_timestamp(),
    )
    locked = passed.order_by(UnlearnRequest.due_at).limit(limit).with_for_update(key_share=True, skip_locked=True)
    overdue = list(session.scalars(locked.execution_options(populate_existing=True)))
    moment = now(session)
    for request in overdue:
        request.overdue_at = moment
        record(session, "request.overdue", {"due_at": request.due_at}, request_id=request.id)
    session.flush()
    return len(overdue)


def extend_deadline(
    session: Session, *, tenant_id: UUID, request_id: UUID, reason: str, quiet: bool = False
) -> resources.UnlearnRequest:
    """Extend the deadline of an unserved request, once, by what its regulation allows (GDPR: two months).

    quiet: whether the caller must not learn what became of the request; then one that is not owed any more is extended too.
    Raises UnknownRequest, TooLate if the request is not owed any more, is overdue or was extended before, and ValueError without a
    reason.
    """
    if not reason.strip():
        raise ValueError("an extension needs a reason, and the person must be informed of it (GDPR Art. 12(3))")
    find_request(session, tenant_id=tenant_id, request_id=request_id)
    request = session.get_one(UnlearnRequest, request_id, with_for_update={"key_share": True}, populate_existing=True)
    unserved = session.scalar(select(UnlearnRequest.is_unserved()).where(UnlearnRequest.id == request_id))
    if request.extension_reason is not None or not (unserved or quiet) or request.due_at <= now(session):
        raise TooLate("only an unserved request that is not overdue and not extended yet can be extended")
    request.due_at = extended_due_at(request)
    request.extension_reason = reason
    record(session, "request.extended", {"due_at": request.due_at, "reason": reason}, request_id=request.id)
    session.flush()
    return get_request(session, tenant_id=tenant_id, request_id=request.id)
