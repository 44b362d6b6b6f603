from datetime import UTC, datetime
from uuid import uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger.errors import InvalidCursor
from ledger.paging import cursor_form, decode_cursor, encode_cursor
from ledger.requests.requests import list_requests
from ledger.tables import Job, UnlearnRequest, WebhookDelivery


def test_a_cursor_keeps_its_place():
    place = datetime(2026, 3, 1, 12, 0, 0, 123456, tzinfo=UTC), uuid4()
    assert decode_cursor(Job, encode_cursor(Job, *place)) == place


@pytest.mark.parametrize("other", [Job, WebhookDelivery])
def test_a_cursor_of_another_list_is_refused(other):
    cursor = encode_cursor(other, datetime(2026, 3, 1, tzinfo=UTC), uuid4())
    with pytest.raises(InvalidCursor, match="not made by this list"):
        decode_cursor(UnlearnRequest, cursor)


@given(st.from_regex(cursor_form(Job), fullmatch=True, alphabet=st.characters(codec="ascii")))
def test_whatever_has_the_form_of_a_cursor_is_one(cursor):
    assert decode_cursor(Job, cursor)[0].tzinfo is UTC


@given(st.text())
def test_what_is_no_cursor_is_refused(cursor):
    with pytest.raises(InvalidCursor):
        decode_cursor(Job, cursor)


@pytest.mark.parametrize(
    "cursor",
    [
        "",
        "jobs-",
        "jobs-1-",
        "jobs--1",
        "jobs-1-00",
        f"1-{'0' * 32}",
        f"Jobs-1-{'0' * 32}",
        f"jobs--1-{'0' * 32}",
        f"jobs-1-{'0' * 32}\n",
        f"jobs-{'9' * 17}-{'0' * 32}",
        f"jobs-1-{'F' * 32}",
        f"jobs-١-{'0' * 32}",
    ],
)
def test_text_of_another_shape_is_refused(cursor):
    with pytest.raises(InvalidCursor):
        decode_cursor(Job, cursor)


def test_a_page_holds_at_least_one_item(world):
    with world.sessions() as session, pytest.raises(ValueError, match="0"):
        list_requests(session, tenant_id=world.tenant_id, limit=0)
