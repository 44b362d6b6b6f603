"""Constrained strings that several bodies, paths and queries share."""

from typing import Annotated

from pydantic import StringConstraints

Name = Annotated[str, StringConstraints(min_length=1, max_length=200, pattern=r"^[^\x00-\x1f\x7f]+$")]
"""The name of a dataset or a model: PostgreSQL refuses NUL, and no operator means any other control character."""

Text = Annotated[str, StringConstraints(max_length=2000, pattern=r"^[^\x00]*$")]
"""Free text of the caller's."""

SampleID = Annotated[str, StringConstraints(min_length=1, max_length=200)]
"""A sample's ID as the dataset's owner wrote it. Personal data: hashed at the door and never repeated."""
