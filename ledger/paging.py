"""Pages of long lists, newest first, with opaque cursors."""

import re
from datetime import UTC, datetime, timedelta
from typing import TypeVar
from uuid import UUID

from sqlalchemy import Select, tuple_
from sqlalchemy.orm import Session

from ledger.errors import InvalidCursor
from ledger.tables import Job, UnlearnRequest, WebhookDelivery

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

Row = TypeVar("Row", Job, UnlearnRequest, WebhookDelivery)


def cursor_form(table: type[Row]) -> str:
    """Give the form, as a pattern, of the cursors of lists of a table's rows. Every text of this form is one."""
    return f"^{table.__tablename__}-[0-9]{{1,16}}-[0-9a-f]{{32}}$"


def read_page(
    session: Session, chosen: Select[Row], table: type[Row], *, cursor: str | None, limit: int
) -> tuple[list[Row], str | None]:
    """Read the next `limit` rows of a selection, newest first, and the cursor of the rows that follow, or None at the end.

    Raises InvalidCursor, and ValueError for a limit below one.
    """
    if limit < 1:
        raise ValueError(f"a page holds at least one item, not {limit}")
    if cursor is not None:
        chosen = chosen.where(tuple_(table.created_at, table.id) < tuple_(*decode_cursor(table, cursor)))
    ordered = chosen.order_by(table.created_at.desc(), table.id.desc()).limit(limit + 1)
    rows = list(session.scalars(ordered))
    more, rows = len(rows) > limit, rows[:limit]
    return rows, encode_cursor(table, rows[-1].created_at, rows[-1].id) if more else None


def encode_cursor(table: type[Row], created_at: datetime, row_id: UUID) -> str:
    """Encode an opaque cursor: the table, and the place behind the row that was created then (in µs since 1970) with this id."""
    return f"{table.__tablename__}-{(created_at - EPOCH) // timedelta(microseconds=1)}-{row_id.hex}"


def decode_cursor(table: type[Row], cursor: str) -> tuple[datetime, UUID]:
    """Decode the place in a table that a cursor stands for. Raises InvalidCursor, also for a cursor of another table."""
    if re.fullmatch(cursor_form(table), cursor) is None:
        raise InvalidCursor("the cursor was not made by this list; leave it out to start at the beginning")
    _, created_at, row_id = cursor.split("-")
    return EPOCH + timedelta(microseconds=int(created_at)), UUID(row_id)
