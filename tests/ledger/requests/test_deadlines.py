import json
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import text

from ledger.errors import InvalidTime, UnknownRegulation
from ledger.events.timeline import list_request_events
from ledger.events.webhooks import add_webhook
from ledger.requests.cancellation import cancel_request
from ledger.requests.deadlines import (
    RULES,
    due_at,
    extend_deadline,
    extended_due_at,
    mark_overdue,
    rule,
)
from ledger.tables import UnlearnRequest

LONG_AGO = datetime.now(UTC) - timedelta(days=60)


def at(year, month, day):
    return datetime(year, month, day, 9, 30, tzinfo=UTC)


@pytest.mark.parametrize(
    ("regulation", "received", "due", "extended"),
    [
        ("gdpr", at(2026, 1, 15), at(2026, 2, 15), at(2026, 4, 15)),
        ("gdpr", at(2026, 1, 31), at(2026, 2, 28), at(2026, 4, 30)),
        ("gdpr", at(2028, 1, 31), at(2028, 2, 29), at(2028, 4, 30)),  # a leap year
        ("gdpr", at(2026, 3, 31), at(2026, 4, 30), at(2026, 6, 30)),
        ("gdpr", at(2026, 2, 28), at(2026, 3, 28), at(2026, 5, 28)),
        ("gdpr", at(2026, 11, 30), at(2026, 12, 30), at(2027, 2, 28)),
        ("gdpr", at(2026, 12, 31), at(2027, 1, 31), at(2027, 3, 31)),
        ("uk_gdpr", at(2026, 8, 31), at(2026, 9, 30), at(2026, 11, 30)),
        ("ccpa", at(2026, 1, 31), at(2026, 3, 17), at(2026, 5, 1)),
        ("vcdpa", at(2026, 1, 1), at(2026, 2, 15), at(2026, 4, 1)),
        ("cpa", at(2026, 1, 1), at(2026, 2, 15), at(2026, 4, 1)),
        ("ctdpa", at(2026, 1, 1), at(2026, 2, 15), at(2026, 4, 1)),
    ],
)
def test_a_request_is_due(regulation, received, due, extended):
    assert due_at(regulation, received) == due
    assert due_at(regulation, received, extended=True) == extended


@given(
    st.sampled_from(sorted(RULES)),
    st.datetimes(min_value=datetime(2000, 1, 1), max_value=datetime(2100, 1, 1), timezones=st.just(UTC)),
)
def test_no_rule_gives_less_than_four_weeks_and_an_extension_only_adds(regulation, received):
    due = due_at(regulation, received)
    assert timedelta(days=28) <= due - received <= timedelta(days=45)
    assert due < due_at(regulation, received, extended=True)


def test_the_day_is_that_of_the_callers_zone():
    tokyo = timezone(timedelta(hours=9))
    received = datetime(2026, 2, 1, 8, 0, tzinfo=tokyo)  # still January in UTC
    assert due_at("gdpr", received) == datetime(2026, 3, 1, 8, 0, tzinfo=tokyo)


def test_a_time_without_a_zone_is_refused():
    with pytest.raises(InvalidTime, match="time zone"):
        due_at("gdpr", datetime(2026, 1, 1))


def test_an_unknown_regulation_names_the_known_ones():
    with pytest.raises(UnknownRegulation, match="gdpr, uk_gdpr, ccpa"):
        rule("gpdr")


def mark(world):
    with world.sessions.begin() as session:
        return mark_overdue(session)


def test_an_open_request_past_its_deadline_is_marked_once(world):
    late = world.submit(1, received_at=LONG_AGO)
    world.submit(2)
    with world.sessions.begin() as session:
        add_webhook(session, tenant_id=world.tenant_id, url="https://example.org/", key=bytes(32))
    assert (mark(world), mark(world)) == (1, 0)
    with world.sessions() as session:
        events = list_request_events(session, tenant_id=world.tenant_id, request_id=late.id)
        (body,) = session.scalars(text("SELECT body FROM webhook_deliveries")).all()
    assert [event.kind for event in events].count("request.overdue") == 1
    message = json.loads(body)
    assert (message["type"], message["data"]["request_id"]) == ("request.overdue", str(late.id))


def test_what_has_ended_is_never_overdue(world):
    cancelled = world.submit(1, received_at=LONG_AGO)
    with world.sessions.begin() as session:
        cancel_request(session, tenant_id=world.tenant_id, request_id=cancelled.id)
    assert mark(world) == 0


def test_simultaneous_marks_share_the_work(world):
    world.submit(1, received_at=LONG_AGO)
    with world.sessions.begin() as session:
        assert mark_overdue(session) == 1
        assert mark(world) == 0


ZONES = st.integers(-14 * 60, 14 * 60).map(lambda minutes: timezone(timedelta(minutes=minutes)))
"""Every offset that RFC 3339 can write and a person can live in."""

NEAR_MONTHS_ENDS = st.builds(
    lambda year, month, hours: datetime(year, month, 1) + timedelta(hours=hours),
    st.sampled_from([2023, 2024, 2027, 2028, 2100]),
    st.integers(1, 12),
    st.integers(-48, 48),
)


def stored(regulation, received, *, offset_is_kept=True):
    """The request as the database gives it back: its times are in UTC."""
    return UnlearnRequest(
        regulation=regulation,
        received_at=received.astimezone(UTC),
        received_offset=received.utcoffset().total_seconds() if offset_is_kept else None,
        due_at=due_at(regulation, received).astimezone(UTC),
    )


@given(st.sampled_from(sorted(RULES)), NEAR_MONTHS_ENDS, ZONES)
def test_an_extension_counts_in_the_zone_of_the_receipt(regulation, local, zone):
    received = local.replace(tzinfo=zone)
    wanted = due_at(regulation, received, extended=True)
    assert extended_due_at(stored(regulation, received)) == wanted
    assert extended_due_at(stored(regulation, received, offset_is_kept=False)) <= wanted + timedelta(minutes=15)


@pytest.mark.parametrize(
    ("received", "due"),
    [
        # In UTC the day after or before, which has another number of months to count.
        ("2026-01-31T23:30:00-05:00", "2026-04-30T23:30:00-05:00"),
        ("2026-12-01T01:00:00+09:00", "2027-03-01T01:00:00+09:00"),  # counted in UTC: 28 February 16:00
        ("2027-11-30T20:00:00-08:00", "2028-02-29T20:00:00-08:00"),  # counted in UTC: a day later, 1 March
    ],
)
def test_an_extended_request_has_its_own_zones_deadline(world, received, due):
    made = datetime.fromisoformat(received)
    request = world.submit(1, received_at=datetime.now(made.tzinfo) - timedelta(hours=1))
    with world.sessions.begin() as session:
        row = session.get_one(UnlearnRequest, request.id, with_for_update=True)
        assert row.received_offset == made.utcoffset().total_seconds()
        row.received_at, row.due_at = made, datetime.now(UTC) + timedelta(days=1)
    with world.sessions.begin() as session:
        extended = extend_deadline(session, tenant_id=world.tenant_id, request_id=request.id, reason="five models")
    assert extended.due_at == datetime.fromisoformat(due)
