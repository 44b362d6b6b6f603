"""Uploaded manifests as the API tells them."""

from datetime import datetime
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field


class ManifestBody(BaseModel):
    """A list of samples that was uploaded, to be named in a request's `manifest`."""

    model_config = ConfigDict(from_attributes=True)

    id: UUID
    dataset: str = Field(examples=["digits"])
    samples: int = Field(description="How many, each counted once.")
    sha256: str = Field(description="Of their sorted keyed hashes: it commits to the list and does not tell it.")
    created_at: datetime
    expires_at: datetime = Field(
        description="After this it is gone; requests that were made with it are not concerned."
    )
