"""Models and their versions."""

from functools import partial
from typing import Annotated

from fastapi import APIRouter, Path, Request, Response
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StrictBool

from ledger.events.timeline import list_model_events
from ledger.jobs.approvals import set_approvals
from ledger.registry.access import Scope
from ledger.registry.models import get_model, list_models, list_versions, lock_model, set_escalation
from ledger.registry.versions import promote
from ledger.requests import do_not_train
from ledger.resources import Event, Listing, Model, Version
from ledger.states import Escalation
from service.http.authentication import Admin, ApiRoute, Promoter, Reader, require
from service.http.fields import After, Limit, Name, require_whole
from service.http.openapi import problems
from service.http.sessions import Ledger
from service.http.streaming import DIGESTS, stream_digests


class ModelSettings(BaseModel):
    """How a model's jobs run, and what needs approval. What is left out stays as it is."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    approve_jobs: StrictBool | None = Field(default=None, description="Whether each job needs approval before it runs.")
    approve_versions: StrictBool | None = Field(
        default=None, description="Whether each version needs approval before it is served."
    )
    approve_utility_drop: float | None = Field(
        default=None,
        ge=0,
        le=100,
        strict=True,
        description="Points of merit (accuracy for a classifier). A version that lost more, beyond what less data explains, needs "
        "approval. 100: never.",
    )
    escalate: Escalation | None = Field(
        default=None, description="Whether jobs escalate to the next method after an inconclusive verdict."
    )
    batch_until_samples: Annotated[int, Field(ge=0, le=1_000_000), BeforeValidator(require_whole)] | None = Field(
        default=None,
        description="With fewer samples a job stays open for more, as long as the deadlines allow. 0 turns this off.",
    )


router = APIRouter(route_class=ApiRoute, tags=["registry"])

Number = Annotated[int, Path(ge=1, lt=2**31, description="The version's number.")]


@router.get("/models", summary="List the models", responses=problems(401, 403, 422, 503))
def get_models(caller: Reader, ledger: Ledger) -> Listing[Model]:
    """Every model with its newest version, the methods its policy tries, and how many samples it has forgotten."""
    return Listing[Model](items=list_models(ledger, tenant_id=caller.tenant_id))


@router.get("/models/{name}", summary="One model", responses=problems(401, 403, 404, 422, 503))
def get_one_model(name: Name, caller: Reader, ledger: Ledger) -> Model:
    """A model by its name."""
    return get_model(ledger, tenant_id=caller.tenant_id, name=name)


@router.patch(
    "/models/{name}",
    summary="Set how a model's jobs run",
    responses=problems(400, 401, 403, 404, 413, 415, 422, 503),
)
def patch_model(name: Name, asked: ModelSettings, caller: Admin, ledger: Ledger) -> Model:
    """Sets what needs an admin's approval, when a job escalates to the next method, and for how many samples it waits.

    Approvals hold from now on, for jobs that are open or running too. A job that awaits an approval which it needs no more goes
    back to the queue. `escalate` and `batch_until_samples` hold for requests that come from now on.
    """
    set_escalation(
        ledger,
        tenant_id=caller.tenant_id,
        model=name,
        escalate=asked.escalate,
        batch_until_samples=asked.batch_until_samples,
        by=caller.name,
    )
    return set_approvals(
        ledger,
        tenant_id=caller.tenant_id,
        model=name,
        jobs=asked.approve_jobs,
        versions=asked.approve_versions,
        utility_drop=asked.approve_utility_drop,
        by=caller.name,
    )


@router.get("/models/{name}/versions", summary="A model's versions", responses=problems(401, 403, 404, 422, 503))
def get_versions(name: Name, caller: Reader, ledger: Ledger) -> Listing[Version]:
    """All versions by their weights' SHA-256, newest first, each with the job and the report it came from."""
    return Listing[Version](items=list_versions(ledger, tenant_id=caller.tenant_id, model=name))


@router.post(
    "/models/{name}/versions/{number}:promote",
    summary="Serve another version",
    responses=problems(401, 403, 404, 409, 422, 503),
)
def post_promote(name: Name, number: Number, caller: Promoter, ledger: Ledger) -> Version:
    """Serves this version from now on: one that was trained anew, or an earlier one.

    409 `samples-erased` where it still knows samples that the model has forgotten since; 409 while a job works on the model. Where
    the model's versions need approval, the key must be an admin's.
    """
    # Locked, so that an admin who asks for approvals at this moment comes before this call or after it.
    if lock_model(ledger, tenant_id=caller.tenant_id, name=name).approve_versions:
        require(caller, Scope.ADMIN)
    return promote(ledger, tenant_id=caller.tenant_id, model=name, number=number, by=caller.name)


@router.get("/models/{name}/events", summary="A model's timeline", responses=problems(401, 403, 404, 422, 503))
def get_model_events(
    name: Name, caller: Reader, ledger: Ledger, after: After = 0, limit: Limit = 200
) -> Listing[Event]:
    """Which versions were registered and promoted, when and by whom, oldest first."""
    events = list_model_events(ledger, tenant_id=caller.tenant_id, model=name, after=after, limit=limit)
    return Listing[Event](items=events)


@router.get(
    "/models/{name}/do-not-train",
    summary="What a model's next training must leave out",
    response_class=Response,
    responses=problems(401, 403, 404, 422, 503) | DIGESTS,
)
async def get_do_not_train(name: Name, request: Request, caller: Reader) -> Response:
    """The samples that the model has forgotten or was asked to, by their keyed hash, each in hex on a line.

    If people asked for it, all of their samples are listed, also those that came later.
    Whoever has the sample key can tell which of his samples are among them: `expunge do-not-train`.
    """
    find = partial(do_not_train.of_model, tenant_id=caller.tenant_id, name=name)
    return await stream_digests(request, caller.tenant_id, find)


@router.get(
    "/models/{name}/do-not-train/subjects",
    summary="Whose samples a model's next training must leave out",
    response_class=Response,
    responses=problems(401, 403, 404, 422, 503) | DIGESTS,
)
async def get_people_not_to_train_on(name: Name, request: Request, caller: Reader) -> Response:
    """The people who asked for erasure by their names, whether or not they have samples now: their keyed hashes, one a line.

    Whoever limited a request to a dataset, and had no sample in the model when it came, is on the dataset's list alone: leave that
    one out too where people get samples later.
    """
    find = partial(do_not_train.people_of_model, tenant_id=caller.tenant_id, name=name)
    return await stream_digests(request, caller.tenant_id, find)
