"""An unlearn request as it is asked."""

from datetime import datetime
from typing import Annotated, Self
from uuid import UUID

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

from ledger.deadlines import RULES
from service.methods import Method
from service.names import Moment, Name, SampleID, Text

MOST_SAMPLE_IDS = 100_000


def _under_law(value: datetime) -> datetime:
    """Refuse a time before any law that this service knows. One in the future the ledger refuses, by the database's clock."""
    if value.year < 2000:
        raise ValueError("must be in the year 2000 or later")
    return value


def _known_regulation(value: str) -> str:
    if value not in RULES:
        raise ValueError(f"must be one of {', '.join(RULES)}")
    return value


SampleIDs = Annotated[list[SampleID], Field(min_length=1, max_length=MOST_SAMPLE_IDS, fail_fast=True)]


class NewUnlearnRequest(BaseModel):
    """The erasure of samples from every model that was trained on them, or from the models named."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        json_schema_extra={
            "examples": [
                {
                    "dataset": "digits",
                    "sample_ids": ["digit-0017", "digit-0201"],
                    "regulation": "gdpr",
                    "external_id": "DSR-2041",
                },
                {
                    "dataset": "digits",
                    "sample_ids": ["digit-0017"],
                    "models": ["digits-cnn"],
                    "method": {"kind": "ltu", "steps": 40},
                },
            ]
        },
    )

    dataset: Name = Field(description="Name of a registered dataset.")
    sample_ids: SampleIDs | None = Field(
        default=None,
        description="IDs of the samples to erase, as the dataset has them. One given twice counts once. Never stored as they are.",
    )
    manifest: UUID | None = Field(
        default=None, description="An uploaded list instead of `sample_ids`: see POST /manifests."
    )
    models: list[Name] | None = Field(
        default=None,
        min_length=1,
        max_length=100,
        description="Only these models; by default every active one trained on them.",
    )
    method: Method = "auto"
    reason: Text | None = Field(default=None, description="Why, in words for the record. Nothing personal, please.")
    regulation: Annotated[str, AfterValidator(_known_regulation)] = Field(
        default="gdpr", description="The law whose clock runs.", json_schema_extra={"enum": list(RULES)}
    )
    received_at: Annotated[Moment, AfterValidator(_under_law)] | None = Field(
        default=None,
        description="When the person asked (RFC 3339, with offset); the legal clock runs from here. Default: now.",
    )
    external_id: Annotated[Text, Field(max_length=200)] | None = Field(
        default=None, description="Your own reference. Nothing personal, please."
    )
    expedite: bool = Field(default=False, description="Do not wait for other requests to join the job.")
    validate_only: bool = Field(
        default=False, description="Answer what would happen and change nothing; as the :preview call."
    )

    @model_validator(mode="after")
    def _either(self) -> Self:
        """Refuse none and both of the two ways to name samples."""
        if (self.sample_ids is None) == (self.manifest is None):
            raise PydanticCustomError(
                "samples", "Exactly one of sample_ids and manifest is required", {"field": "sample_ids"}
            )
        return self
