"""Public signing keys as the API tells them."""

from datetime import datetime

from pydantic import BaseModel, ConfigDict, Field


class SigningKeyBody(BaseModel):
    """A public key (Ed25519) that signs, or has signed, statements and checkpoints."""

    model_config = ConfigDict(from_attributes=True)

    key_id: str = Field(description="SHA-256, hex, of the key's DER form (SubjectPublicKeyInfo).")
    public_key: str = Field(description="PEM.")
    created_at: datetime
    revoked_at: datetime | None = Field(description="From then on nothing that it has ever signed counts.")
    revocation_reason: str | None


class SigningKeysBody(BaseModel):
    """All keys, newest first, the revoked ones too. Save it as the file that `expunge verify --key` reads."""

    items: list[SigningKeyBody]
