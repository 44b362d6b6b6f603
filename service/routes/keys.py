"""GET /keys: the public halves of the keys that sign. Everybody may have them."""

from fastapi import APIRouter

from ledger.signing_keys import list_signing_keys
from service.bodies.keys import SigningKeysBody
from service.openapi import problems
from service.session import Ledger

router = APIRouter(tags=["reports"])


@router.get("/keys", summary="The public signing keys", responses=problems(503))
def get_keys(ledger: Ledger) -> SigningKeysBody:
    """The keys that statements and checkpoints are verified with, newest first, and which are revoked; asks for no API key.

    A key is worth what its way to you is worth: compare its id with one that you were given otherwise.
    """
    return SigningKeysBody.model_validate({"items": list_signing_keys(ledger)}, from_attributes=True)
