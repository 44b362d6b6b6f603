"""The log as the API tells it."""

from typing import Annotated

from pydantic import BaseModel, Field, StringConstraints

LeafHash = Annotated[str, StringConstraints(pattern="^[0-9a-f]{64}$")]
"""SHA-256, hex, of 0x00 and a leaf (RFC 6962)."""


class InclusionProofBody(BaseModel):
    """Shows that a leaf is in the tree of that size (RFC 6962, section 2.1.1)."""

    leaf_index: int
    tree_size: int
    path: list[str] = Field(description="SHA-256 hex, from the leaf to the root.")


class ConsistencyProofBody(BaseModel):
    """Shows that the second tree begins with the first (RFC 6962, section 2.1.2)."""

    first: int
    second: int
    path: list[str] = Field(description="SHA-256 hex.")


class LeavesBody(BaseModel):
    """Leaves of the log, in their order, as the bytes that are hashed."""

    start: int
    leaves: list[str] = Field(description="Base64. Each is JSON: kind, time, and a keyed hash of what was recorded.")


class LogEntryBody(BaseModel):
    """One entry with everything that shows it to be in the log; `expunge verify --log` reads it."""

    type: str = Field(examples=["https://expunge.dev/proofs/log/v1"])
    leaf: str = Field(description="Base64: kind, time and keyed hash.")
    content: str = Field(description="The JSON that was recorded, byte by byte.")
    key: str = Field(description="Hex; HMAC-SHA256 under it turns the content into the leaf's hash.")
    leaf_index: int
    path: list[str] = Field(description="SHA-256 hex, from the leaf to the root of the checkpoint.")
    checkpoint: str = Field(description="A signed note.")
