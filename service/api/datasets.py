"""GET /datasets: the data sets that a request can name. The operator registers them with a command."""

from functools import partial

from fastapi import APIRouter, Request, Response

from ledger.registry.datasets import get_dataset, list_datasets
from ledger.requests import do_not_train
from ledger.resources import Dataset, Listing
from service.http.authentication import ApiRoute, Reader
from service.http.fields import Name
from service.http.openapi import problems
from service.http.sessions import Ledger
from service.http.streaming import DIGESTS, stream_digests

router = APIRouter(route_class=ApiRoute, tags=["registry"])


@router.get("/datasets", summary="List the datasets", responses=problems(401, 403, 422, 503))
def get_datasets(caller: Reader, ledger: Ledger) -> Listing[Dataset]:
    """All datasets of the tenant, by name, with how many samples each has. Sample IDs are not stored and cannot be listed."""
    return Listing[Dataset](items=list_datasets(ledger, tenant_id=caller.tenant_id))


@router.get("/datasets/{name}", summary="One dataset", responses=problems(401, 403, 404, 422, 503))
def get_one_dataset(name: Name, caller: Reader, ledger: Ledger) -> Dataset:
    """A dataset by its name."""
    return get_dataset(ledger, tenant_id=caller.tenant_id, name=name)


@router.get(
    "/datasets/{name}/do-not-train",
    summary="What no training on a dataset may use",
    response_class=Response,
    responses=problems(401, 403, 404, 422, 503) | DIGESTS,
)
async def get_do_not_train(name: Name, request: Request, caller: Reader) -> Response:
    """The samples that any model of the dataset has forgotten or was asked to forget: their keyed hashes, in hex, one a line.

    If people asked for it, all of their samples are listed, also those that came later.
    """
    find = partial(do_not_train.of_dataset, tenant_id=caller.tenant_id, name=name)
    return await stream_digests(request, caller.tenant_id, find)


@router.get(
    "/datasets/{name}/do-not-train/subjects",
    summary="Whose samples no training on a dataset may use",
    response_class=Response,
    responses=problems(401, 403, 404, 422, 503) | DIGESTS,
)
async def get_people_not_to_train_on(name: Name, request: Request, caller: Reader) -> Response:
    """The people who asked for erasure by their names, whether or not they have samples now: their keyed hashes, one a line."""
    find = partial(do_not_train.people_of_dataset, tenant_id=caller.tenant_id, name=name)
    return await stream_digests(request, caller.tenant_id, find)
