"""Constrained values that several bodies, paths and queries share: names, texts, times, and the parameters of lists."""

import re
from datetime import datetime
from functools import partial
from typing import Annotated, Any

from fastapi import Query
from pydantic import AfterValidator, AwareDatetime, BeforeValidator, Field, StringConstraints

from ledger.paging import Row, cursor_form
from ledger.tables import Job, UnlearnRequest, WebhookDelivery
from verifier.sample_ids import MAX_SAMPLE_ID_LENGTH, InvalidSampleID, check_sample_id

_DATE_AND_TIME = re.compile(r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d")
_OFFSET_AFTER_BLANK = re.compile(_DATE_AND_TIME.pattern + r"[\d:.]* \d\d:?\d\d")

_WITHOUT_CONTROL, _WITHOUT_NUL = r"^[^\x00-\x1f\x7f]+$", r"^[^\x00]*$"
_PRINTABLE, _SHA256 = r"^[\x21-\x7e]+$", "^[0-9a-f]{64}$"

Name = Annotated[str, StringConstraints(min_length=1, max_length=200, pattern=_WITHOUT_CONTROL)]
"""The name of a dataset or a model. PostgreSQL refuses NUL, and no operator means any other control character."""

Text = Annotated[str, StringConstraints(max_length=2000, pattern=_WITHOUT_NUL)]
"""Free text from the caller."""


def _require_rfc3339(value: object) -> object:
    """Refuse a number, which pydantic would read as seconds since 1970, and a + that a query has made a blank."""
    if isinstance(value, datetime):  # from another body, not from JSON
        return value
    if not isinstance(value, str) or not _DATE_AND_TIME.match(value):
        raise ValueError("must be a datetime of RFC 3339 with an offset, as in 2026-01-31T09:00:00Z")
    if _OFFSET_AFTER_BLANK.fullmatch(value):
        raise ValueError("has a blank in place of its offset's sign; in a query write + as %2B")
    return value


Moment = Annotated[AwareDatetime, BeforeValidator(_require_rfc3339)]
"""A time with its offset from UTC."""

_BLANK = " \\u00a0\\u1680\\u2000-\\u200a\\u202f\\u205f\\u3000"
_CONTROL = "\\u0000-\\u001f\\u007f-\\u009f\\u2028\\u2029\\ufeff"

_SAYS_SOMETHING = f"^[^\\u0000]*[^{_BLANK}{_CONTROL}\\u0000][^\\u0000]*$"

RequiredText = Annotated[str, StringConstraints(min_length=1, max_length=2000, pattern=_SAYS_SOMETHING)]
"""Free text from the caller that says something: blanks and control characters alone do not."""

Token = Annotated[str, StringConstraints(min_length=1, max_length=255, pattern=_PRINTABLE)]
"""A string of the caller's in a header."""

Sha256 = Annotated[str, StringConstraints(pattern=_SHA256)]
"""A digest, as hex."""

PATTERN_RULES = {
    _WITHOUT_CONTROL: "must have no control character",
    _WITHOUT_NUL: "must have no character U+0000",
    _SAYS_SOMETHING: "must have more than blanks, and no character U+0000",
    _PRINTABLE: "must have ASCII letters, digits and punctuation alone, and no blank",
    _SHA256: "must be 64 hex digits in lower case",
}
"""What each pattern of a field asks for, in words."""


def _check_id(text: str, *, name: str) -> str:
    try:
        return check_sample_id(text)
    except InvalidSampleID as fault:
        raise ValueError(f"the {name} {fault}") from None


_OneToTwoHundred = StringConstraints(min_length=1, max_length=MAX_SAMPLE_ID_LENGTH)
_NoControls = Field(json_schema_extra={"pattern": f"^[^{_BLANK}{_CONTROL}]([^{_CONTROL}]*[^{_BLANK}{_CONTROL}])?$"})

SampleID = Annotated[str, _OneToTwoHundred, AfterValidator(partial(_check_id, name="sample ID")), _NoControls]
"""A sample's ID as in the dataset. Personal data: hashed when it arrives and never repeated."""

Subject = Annotated[str, _OneToTwoHundred, AfterValidator(partial(_check_id, name="subject")), _NoControls]
"""A person, named under the same rule. Personal data: hashed when it arrives and never repeated."""


def require_whole(value: object) -> object:
    """Take 3.0 for 3, as JSON Schema does, and refuse a text and a boolean, which pydantic would read as a number."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError("must be a number")
    return value


def _cursor(table: type[Row]) -> Any:
    return Query(
        description="`next_cursor` of the page before of this list; leave out for the first.",
        json_schema_extra={"pattern": cursor_form(table)},
    )


RequestCursor = Annotated[str | None, _cursor(UnlearnRequest)]
JobCursor = Annotated[str | None, _cursor(Job)]
DeliveryCursor = Annotated[str | None, _cursor(WebhookDelivery)]
"""Where a page starts, of each of the three lists."""

Limit = Annotated[int, Query(ge=1, le=200, description="Most items on the page.")]
"""The length of a page of a list."""

After = Annotated[int, Query(ge=0, lt=2**63, description="Only events with a greater id: the last one seen.")]
"""Where to continue in a timeline."""
