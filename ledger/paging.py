"""Pages of long lists, newest first, with opaque cursors."""

import base64
import binascii
import json
from datetime import datetime
from typing import Any, TypeVar
from uuid import UUID

from sqlalchemy import Select, tuple_
from sqlalchemy.orm import Session

from ledger.errors import InvalidCursor
from ledger.tables import Job, UnlearnRequest, WebhookDelivery

Row = TypeVar("Row", Job, UnlearnRequest, WebhookDelivery)


def read_page(
    session: Session, chosen: Select[Row], table: type[Row], *, cursor: str | None, limit: int
) -> tuple[list[Row], str | None]:
    """Read the next `limit` rows of a selection, newest first, and the cursor of the rows that follow, or None at the end.

    Raises InvalidCursor, and ValueError for a limit below one.
    """
    if limit < 1:
        raise ValueError(f"a page holds at least one item, not {limit}")
    if cursor is not None:
        chosen = chosen.where(tuple_(table.created_at, table.id) < tuple_(*decode_cursor(cursor)))
    ordered = chosen.order_by(table.created_at.desc(), table.id.desc()).limit(limit + 1)
    rows = list(session.scalars(ordered))
    more, rows = len(rows) > limit, rows[:limit]
    return rows, encode_cursor(rows[-1].created_at, rows[-1].id) if more else None


def encode_cursor(created_at: datetime, row_id: UUID) -> str:
    """Encode an opaque cursor: the place behind the row that was created then and has this id."""
    return base64.urlsafe_b64encode(json.dumps([created_at.isoformat(), row_id.hex]).encode()).decode()


def decode_cursor(cursor: str) -> tuple[datetime, UUID]:
    """Decode the place that a cursor stands for. Raises InvalidCursor."""
    try:
        place: Any = json.loads(base64.b64decode(cursor, altchars=b"-_", validate=True))
        created_at, row_id = datetime.fromisoformat(place[0]), UUID(place[1])
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError, binascii.Error):
        raise InvalidCursor("the cursor was not made by this list; leave it out to start at the beginning") from None
    if created_at.tzinfo is None or len(place) != 2:
        raise InvalidCursor("the cursor was not made by this list; leave it out to start at the beginning")
    return created_at, row_id
