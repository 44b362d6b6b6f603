"""Manifests: lists of samples too long for a request's body, uploaded ahead of it."""

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Query, Request, Response

from ledger.uploads import get_manifest, remove_manifest
from service.access import Writer
from service.bodies.manifests import ManifestBody
from service.names import Name
from service.openapi import problems
from service.sample_lines import FORMS
from service.session import Ledger
from service.uploads import receive_manifest

router = APIRouter(tags=["unlearn requests"])

_BODY = {
    "required": True,
    "description": "One sample ID a line: as it is; or, in NDJSON, a string or an object with `sample_id` alone.",
    "content": {media: {"schema": {"type": "string"}} for media in FORMS},
}


@router.post(
    "/manifests",
    status_code=201,
    summary="Upload a manifest",
    responses=problems(400, 401, 403, 404, 413, 415, 422, 503),
    openapi_extra={"requestBody": _BODY},
)
async def post_manifest(
    request: Request, caller: Writer, dataset: Annotated[Name, Query(description="Name of a registered dataset.")]
) -> ManifestBody:
    """Takes up to ten million sample IDs, each counted once, and keeps their keyed hashes for a week; name it in `manifest` of
    POST /unlearn-requests."""
    return ManifestBody.model_validate(await receive_manifest(request, caller, dataset=dataset))


@router.get("/manifests/{manifest_id:uuid}", summary="One manifest", responses=problems(401, 403, 404, 422, 503))
def get_one_manifest(manifest_id: UUID, caller: Writer, ledger: Ledger) -> ManifestBody:
    """How many samples it holds, and until when it can be used."""
    return ManifestBody.model_validate(get_manifest(ledger, tenant_id=caller.tenant_id, manifest_id=manifest_id))


@router.delete(
    "/manifests/{manifest_id:uuid}",
    status_code=204,
    summary="Delete a manifest",
    responses=problems(401, 403, 404, 422, 503),
)
def delete_manifest(manifest_id: UUID, caller: Writer, ledger: Ledger) -> Response:
    """Deletes the uploaded list. Requests that were made with it stay."""
    remove_manifest(ledger, tenant_id=caller.tenant_id, manifest_id=manifest_id)
    return Response(status_code=204)
