"""GET /keys: the public signing keys."""

from fastapi import APIRouter

from ledger.resources import Listing, SigningKey
from ledger.transparency.signing_keys import list_signing_keys
from service.http.authentication import ApiRoute
from service.http.openapi import problems
from service.http.sessions import Ledger

router = APIRouter(route_class=ApiRoute, tags=["reports"])


@router.get("/keys", summary="The public signing keys", responses=problems(422, 503))
def get_keys(ledger: Ledger) -> Listing[SigningKey]:
    """The keys that statements and log checkpoints are verified with, newest first, the revoked ones too. No API key is needed.

    Save the answer as the file that `expunge verify --key` reads. Trust a key as far as you trust the way it reached you: compare
    its id with one that you were given by another way.
    """
    return Listing[SigningKey](items=list_signing_keys(ledger))
