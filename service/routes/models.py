"""Models and their versions: what is served now, and where it came from. Registering code is the operator's command."""

from fastapi import APIRouter

from ledger.models import get_model, list_models, list_versions
from service.access import Reader
from service.bodies.models import ModelBody, ModelsBody, VersionsBody
from service.names import Name
from service.openapi import problems
from service.session import Ledger

router = APIRouter(tags=["registry"])


@router.get("/models", summary="List the models", responses=problems(401, 403, 503))
def get_models(caller: Reader, ledger: Ledger) -> ModelsBody:
    """Every model with its newest version, the methods its policy tries, and how many samples it has forgotten."""
    return ModelsBody.model_validate({"items": list_models(ledger, tenant_id=caller.tenant_id)}, from_attributes=True)


@router.get("/models/{name}", summary="One model", responses=problems(401, 403, 404, 422, 503))
def get_one_model(name: Name, caller: Reader, ledger: Ledger) -> ModelBody:
    """A model by its name."""
    return ModelBody.model_validate(get_model(ledger, tenant_id=caller.tenant_id, name=name))


@router.get("/models/{name}/versions", summary="A model's versions", responses=problems(401, 403, 404, 422, 503))
def get_versions(name: Name, caller: Reader, ledger: Ledger) -> VersionsBody:
    """All versions by their weights' SHA-256, newest first, each with the job and the report it came from."""
    versions = list_versions(ledger, tenant_id=caller.tenant_id, model=name)
    return VersionsBody.model_validate({"items": versions}, from_attributes=True)
