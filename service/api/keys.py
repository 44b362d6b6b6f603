"""Public signing keys as the API tells them."""

from datetime import datetime

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field

from ledger.transparency.signing_keys import list_signing_keys
from service.http.openapi import problems
from service.http.sessions import Ledger


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


router = APIRouter(tags=["reports"])


@router.get("/keys", summary="The public signing keys", responses=problems(503))
def get_keys(ledger: Ledger) -> SigningKeysBody:
    """The keys that statements and checkpoints are verified with, newest first, and which are revoked; asks for no API key.

    A key is worth what its way to you is worth: compare its id with one that you were given otherwise.
    """
    return SigningKeysBody.model_validate({"items": list_signing_keys(ledger)}, from_attributes=True)
