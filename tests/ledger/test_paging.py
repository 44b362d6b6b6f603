from datetime import UTC, datetime
from uuid import uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger.errors import InvalidCursor
from ledger.paging import decode_cursor, encode_cursor
from ledger.requests.requests import list_requests


def test_a_cursor_keeps_its_place():
    place = datetime(2026, 3, 1, 12, 0, 0, 123456, tzinfo=UTC), uuid4()
    assert decode_cursor(encode_cursor(*place)) == place


@given(st.text())
def test_what_is_no_cursor_is_refused(cursor):
    with pytest.raises(InvalidCursor):
        decode_cursor(cursor)


@pytest.mark.parametrize(
    "cursor", ["W10=", "e30=", "bnVsbA==", "WzEsMl0=", "WyIyMDI2LTAxLTAxIiwiMDAiXQ==", "W1tdLFtdXQ=="]
)
def test_json_of_another_shape_is_refused(cursor):
    with pytest.raises(InvalidCursor):
        decode_cursor(cursor)


def test_a_page_holds_at_least_one_item(world):
    with world.sessions() as session, pytest.raises(ValueError, match="0"):
        list_requests(session, tenant_id=world.tenant_id, limit=0)
