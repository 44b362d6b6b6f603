"""The served version of a model, for servers that fetch its weights themselves."""

import json
import logging
from functools import partial
from typing import IO, Any
from uuid import UUID

from fastapi import APIRouter, Request, Response
from fastapi.concurrency import run_in_threadpool

from connectors.model_signing import MEDIA_TYPE as SIGNATURE
from connectors.storage import Storage
from ledger.errors import NotFound
from ledger.registry.versions import (
    ServedWeights,
    find_served_signature,
    find_served_weights,
    get_served_version,
    record_fetch,
)
from ledger.resources import ServedVersion
from service.http.authentication import ApiRoute, WeightsReader
from service.http.caching import NOT_CHANGED, conditional, matches
from service.http.fields import Name
from service.http.openapi import problems
from service.http.problems import NotReady
from service.http.sessions import Database, Ledger
from service.http.streaming import Streams, WeightsFile
from unlearning.errors import WeightsError

logger = logging.getLogger(__name__)

router = APIRouter(route_class=ApiRoute, tags=["registry"])

WEIGHTS: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "The safetensors file; its SHA-256 is the ETag",
        "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
    },
    307: {"description": "The file is under the signed URL in `Location`"},
    **NOT_CHANGED,
}
"""The responses with weights, as the OpenAPI document describes them."""


@router.get(
    "/models/{name}/served",
    summary="What a model serves",
    response_model=ServedVersion,
    responses=problems(401, 403, 404, 422, 503) | NOT_CHANGED,
)
def get_served(name: Name, request: Request, caller: WeightsReader, ledger: Ledger) -> Response:
    """The served version by the SHA-256 of its weights. Poll it with `If-None-Match`, and fetch the weights if it has changed."""
    return conditional(request, get_served_version(ledger, tenant_id=caller.tenant_id, model=name))


@router.head(
    "/models/{name}/served/weights",
    summary="Which weights a model serves",
    response_class=Response,
    responses=problems(401, 403, 404, 422, 503) | WEIGHTS,
)
@router.get(
    "/models/{name}/served/weights",
    summary="The weights that a model serves",
    response_class=Response,
    responses=problems(401, 403, 404, 422, 503) | WEIGHTS,
)
async def get_weights(name: Name, request: Request, caller: WeightsReader) -> Response:
    """The safetensors file, or a redirect to a signed URL of the storage. The `ETag` is its SHA-256: check it.

    Each fetch is recorded with the key, so that the copy is found when it has to be deleted. With `If-None-Match` there is 304
    while the version is the same. 404 where this API may not read the storage. HEAD gives the headers alone, and records nothing.
    """
    database: Database = request.app.state.database
    async with database.limiter:
        weights = await run_in_threadpool(_find, database, caller.tenant_id, name)
    storage: Storage | None = request.app.state.settings.files
    if storage is None:
        raise NotFound("this API sends no weights: EXPUNGE_STORAGE is not set for it")
    headers = {
        "ETag": f'"{weights.sha256}"',
        "Expunge-Version": str(weights.version),
        "Cache-Control": "private, no-cache",
    }
    if matches(request.headers.get("if-none-match", ""), headers["ETag"]):
        return Response(status_code=304, headers=headers)
    if request.method == "HEAD":
        known = Response(headers=headers, media_type=WeightsFile.media_type)
        del known.headers["Content-Length"]  # which would be that of no content
        return known
    streams: Streams = request.app.state.weights
    streams.check(caller.tenant_id)
    seconds: int | None = request.app.state.settings.signed_url_seconds
    url, file = await run_in_threadpool(_open, storage, weights, seconds)
    try:
        async with database.limiter:
            await run_in_threadpool(_record, database, weights, caller.key_id)
    except BaseException:
        if file is not None:
            file.close()
        raise
    if file is None:
        return Response(status_code=307, headers={**headers, "Location": url or "", "Cache-Control": "no-store"})
    return WeightsFile(file, weights.sha256, headers=headers, opened=partial(streams.opened, caller.tenant_id))


@router.get(
    "/models/{name}/served/signature",
    summary="A signature of the weights that a model serves",
    response_class=Response,
    responses=problems(401, 403, 404, 422, 503)
    | {200: {"description": "A Sigstore bundle", "content": {SIGNATURE: {"schema": {"type": "object"}}}}},
)
def get_signature(name: Name, caller: WeightsReader, ledger: Ledger) -> Response:
    """The signature by the operator's own key, as OpenSSF model signing has it: `model_signing verify key` checks it with a folder
    that holds the weights as `model.safetensors`. `Expunge-Version` says which version it is of. 404 if that is not signed.
    """
    number, signature = find_served_signature(ledger, tenant_id=caller.tenant_id, model=name)
    headers = {"Expunge-Version": str(number), "Content-Disposition": 'attachment; filename="model.sig"'}
    return Response(json.dumps(signature), headers=headers, media_type=SIGNATURE)


def _find(database: Database, tenant_id: UUID, name: str) -> ServedWeights:
    with database.reading() as session:
        return find_served_weights(session, tenant_id=tenant_id, model=name)


def _open(storage: Storage, weights: ServedWeights, seconds: int | None) -> tuple[str | None, IO[bytes] | None]:
    """Return a signed URL, or the open file. Raises NotReady if the storage has neither."""
    try:
        url = None if seconds is None else storage.sign(weights.path, seconds=seconds)
        return (url, None) if url is not None else (None, storage.fetch(weights.path, weights.sha256).open("rb"))
    except (OSError, WeightsError) as error:
        logger.error("the weights %s cannot be sent: %s", weights.sha256, error)
        raise NotReady(
            "The weights cannot be read now; the API's log says why.", checks={"storage": "failed"}
        ) from error


def _record(database: Database, weights: ServedWeights, key_id: UUID) -> None:
    with database.sessions.begin() as session:
        record_fetch(session, version_id=weights.version_id, key_id=key_id)
