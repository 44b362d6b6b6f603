"""Proofs as the API asks for them and gives them."""

from pydantic import BaseModel, ConfigDict, Field

from service.names import SampleID


class InclusionAsked(BaseModel):
    """Which sample is to be shown; in a body, because IDs are personal data and URLs are logged."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    sample_id: SampleID = Field(description="The sample's ID, as the dataset has it.", examples=["digit-0017"])


class InclusionBody(BaseModel):
    """A proof that one sample is in a report's manifest, to be handed to the person; it shows no other sample.

    The leaf is SHA-256(0x00, salt, dataset, 0x00, sample_id); the path leads to the root in the signed statement (RFC 6962).
    """

    type: str = Field(examples=["https://expunge.dev/proofs/inclusion/v1"])
    report_id: str
    dataset: str
    sample_id: str
    salt: str = Field(description="32 bytes, hex; of this leaf alone.")
    leaf_index: int
    tree_size: int = Field(description="How many samples the manifest has.")
    path: list[str] = Field(description="SHA-256 hex, from the leaf to the root.")
