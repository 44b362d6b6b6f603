"""Constrained values that several bodies, paths and queries share."""

from typing import Annotated

from fastapi import Query
from pydantic import StringConstraints

Name = Annotated[str, StringConstraints(min_length=1, max_length=200, pattern=r"^[^\x00-\x1f\x7f]+$")]
"""The name of a dataset or a model: PostgreSQL refuses NUL, and no operator means any other control character."""

Text = Annotated[str, StringConstraints(max_length=2000, pattern=r"^[^\x00]*$")]
"""Free text of the caller's."""

SampleID = Annotated[str, StringConstraints(min_length=1, max_length=200)]
"""A sample's ID as the dataset's owner wrote it. Personal data: hashed at the door and never repeated."""

Cursor = Annotated[
    str | None, Query(max_length=400, description="`next_cursor` of the page before; leave out for the first.")
]
"""Where a page of a list begins."""

Limit = Annotated[int, Query(ge=1, le=200, description="Most items on the page.")]
"""How long a page of a list may be."""

After = Annotated[int, Query(ge=0, lt=2**63, description="Only events with a greater id: the last one seen.")]
"""Where to read on in a timeline."""
