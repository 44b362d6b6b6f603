"""Models and their versions: what is served, where it came from, serving another. Registering code is the operator's command."""

from functools import partial
from typing import Annotated

from fastapi import APIRouter, Path, Request
from fastapi.responses import StreamingResponse

from ledger import do_not_train
from ledger.access import Scope
from ledger.approvals import set_approvals
from ledger.events import list_model_events
from ledger.models import get_model, list_models, list_versions
from ledger.versions import promote
from service.access import Admin, Promoter, Reader, require
from service.bodies.jobs import EventsBody
from service.bodies.models import ApprovalsBody, ModelBody, ModelsBody, VersionBody, VersionsBody
from service.digests import DIGESTS, stream_digests
from service.names import After, Limit, Name
from service.openapi import problems
from service.session import Ledger

router = APIRouter(tags=["registry"])

Number = Annotated[int, Path(ge=1, lt=2**31, description="The version's number.")]


@router.get("/models", summary="List the models", responses=problems(401, 403, 503))
def get_models(caller: Reader, ledger: Ledger) -> ModelsBody:
    """Every model with its newest version, the methods its policy tries, and how many samples it has forgotten."""
    return ModelsBody.model_validate({"items": list_models(ledger, tenant_id=caller.tenant_id)}, from_attributes=True)


@router.get("/models/{name}", summary="One model", responses=problems(401, 403, 404, 422, 503))
def get_one_model(name: Name, caller: Reader, ledger: Ledger) -> ModelBody:
    """A model by its name."""
    return ModelBody.model_validate(get_model(ledger, tenant_id=caller.tenant_id, name=name))


@router.patch(
    "/models/{name}",
    summary="Say what needs approval",
    responses=problems(400, 401, 403, 404, 413, 415, 422, 503),
)
def patch_model(name: Name, asked: ApprovalsBody, caller: Admin, ledger: Ledger) -> ModelBody:
    """Has an admin approve each job before it runs, or each version before it is served, or not any more."""
    view = set_approvals(
        ledger,
        tenant_id=caller.tenant_id,
        model=name,
        jobs=asked.approve_jobs,
        versions=asked.approve_versions,
        by=caller.name,
    )
    return ModelBody.model_validate(view)


@router.get("/models/{name}/versions", summary="A model's versions", responses=problems(401, 403, 404, 422, 503))
def get_versions(name: Name, caller: Reader, ledger: Ledger) -> VersionsBody:
    """All versions by their weights' SHA-256, newest first, each with the job and the report it came from."""
    versions = list_versions(ledger, tenant_id=caller.tenant_id, model=name)
    return VersionsBody.model_validate({"items": versions}, from_attributes=True)


@router.post(
    "/models/{name}/versions/{number}:promote",
    summary="Serve another version",
    responses=problems(401, 403, 404, 409, 422, 503),
)
def post_promote(name: Name, number: Number, caller: Promoter, ledger: Ledger) -> VersionBody:
    """Serves this version from now on: one that was trained anew, or an earlier one.

    409 `samples-erased` where it still knows samples that the model has forgotten since; 409 while a job works on the model. Where
    the model's versions need approval, the key must be an admin's.
    """
    if get_model(ledger, tenant_id=caller.tenant_id, name=name).approve_versions:
        require(caller, Scope.ADMIN)
    version = promote(ledger, tenant_id=caller.tenant_id, model=name, number=number, by=caller.name)
    return VersionBody.model_validate(version)


@router.get("/models/{name}/events", summary="A model's timeline", responses=problems(401, 403, 404, 422, 503))
def get_model_events(name: Name, caller: Reader, ledger: Ledger, after: After = 0, limit: Limit = 200) -> EventsBody:
    """Which versions were registered and promoted, when and by whom, oldest first."""
    events = list_model_events(ledger, tenant_id=caller.tenant_id, model=name, after=after, limit=limit)
    return EventsBody.model_validate({"items": events}, from_attributes=True)


@router.get(
    "/models/{name}/do-not-train",
    summary="What a model's next training must leave out",
    response_class=StreamingResponse,
    responses=problems(401, 403, 404, 422, 503) | DIGESTS,
)
async def get_do_not_train(name: Name, request: Request, caller: Reader) -> StreamingResponse:
    """The samples that the model has forgotten or was asked to, by their keyed hash, each in hex on a line.

    Whoever has the sample key can tell which of his samples are among them: `expunge do-not-train`.
    """
    find = partial(do_not_train.of_model, tenant_id=caller.tenant_id, name=name)
    return await stream_digests(request.app.state.lists, request.app.state.database, find)
