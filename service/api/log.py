"""The transparency log: its checkpoint, its proofs, its leaves, and the entries of requests and jobs."""

import base64
from typing import Annotated, Literal
from uuid import UUID

from fastapi import APIRouter, Query, Request, Response
from pydantic import BaseModel, Field

from ledger.transparency.log import (
    LogKind,
    find_leaf,
    list_leaves,
    newest_checkpoint,
    prove_entry,
    prove_growth,
    prove_leaf,
)
from service.http.authentication import ApiRoute, Reader, ReportReader
from service.http.fields import Sha256
from service.http.openapi import problems
from service.http.sessions import Ledger

router = APIRouter(route_class=ApiRoute, tags=["log"])


class InclusionProofBody(BaseModel):
    """Shows that a leaf is in the tree of that size (RFC 6962, section 2.1.1)."""

    leaf_index: int
    tree_size: int
    path: list[str] = Field(description="SHA-256 hex, from the leaf to the root.")


class ConsistencyProofBody(BaseModel):
    """Shows that the second tree begins with the first (RFC 6962, section 2.1.2)."""

    first: int
    second: int
    path: list[str] = Field(description="SHA-256 hex.")


class LeavesBody(BaseModel):
    """Leaves of the log, in their order, as the bytes that are hashed."""

    start: int
    leaves: list[str] = Field(description="Base64. Each is JSON: kind, time, and a keyed hash of what was recorded.")


class LogEntryBody(BaseModel):
    """One entry with everything that shows it to be in the log; `expunge verify --log` reads it."""

    type: str = Field(examples=["https://expunge.dev/proofs/log/v1"])
    leaf: str = Field(description="Base64: kind, time and keyed hash.")
    content: str = Field(description="The JSON that was recorded, byte by byte.")
    key: str = Field(description="Hex; HMAC-SHA256 under it turns the content into the leaf's hash.")
    leaf_index: int
    path: list[str] = Field(description="SHA-256 hex, from the leaf to the root of the checkpoint.")
    checkpoint: str = Field(description="A signed note.")


Size = Annotated[int, Query(ge=0, lt=2**63, description="Of a tree: how many entries it has.")]


@router.get(
    "/log/checkpoint",
    summary="The newest checkpoint of the log",
    response_class=Response,
    responses=problems(404, 422, 503) | {200: {"content": {"text/plain": {"schema": {"type": "string"}}}}},
)
def get_checkpoint(ledger: Ledger) -> Response:
    """A signed note (c2sp.org/tlog-checkpoint): the log's name, its size, its root. Keep it: later ones must be consistent with it.

    404 until the first one is signed.
    """
    return Response(newest_checkpoint(ledger).note, media_type="text/plain")


@router.get("/log/proof/consistency", summary="Show that the log has only grown", responses=problems(404, 422, 503))
def get_consistency(ledger: Ledger, first: Size, second: Size) -> ConsistencyProofBody:
    """The proof that the tree of `second` entries begins with the tree of `first` entries."""
    path = prove_growth(ledger, first=first, second=second)
    return ConsistencyProofBody(first=first, second=second, path=[step.hex() for step in path])


@router.get("/log/proof/inclusion", summary="Show that a leaf is in the log", responses=problems(404, 422, 503))
def get_inclusion(
    ledger: Ledger,
    leaf_hash: Annotated[Sha256, Query(description="SHA-256, hex, of 0x00 and the leaf (RFC 6962).")],
    size: Size,
) -> InclusionProofBody:
    """The proof that a leaf, known by its hash, is in the tree of `size` entries."""
    index = find_leaf(ledger, bytes.fromhex(leaf_hash))
    path = prove_leaf(ledger, index=index, size=size)
    return InclusionProofBody(leaf_index=index, tree_size=size, path=[step.hex() for step in path])


@router.get("/log/leaves", summary="The leaves of the log", responses=problems(401, 403, 422, 503))
def get_leaves(
    caller: ReportReader,
    ledger: Ledger,
    start: Annotated[int, Query(ge=0, lt=2**63, description="The first one's place.")] = 0,
    limit: Annotated[int, Query(ge=1, le=1000, description="Most leaves in the answer.")] = 1000,
) -> LeavesBody:
    """The root can be computed from all leaves. They show no content, but how much happens when: so a key is needed."""
    leaves = [base64.b64encode(leaf).decode() for leaf in list_leaves(ledger, start=start, limit=limit)]
    return LeavesBody(start=start, leaves=leaves)


@router.get(
    "/unlearn-requests/{request_id:uuid}/log-entry",
    summary="Show that a request was recorded",
    responses=problems(401, 403, 404, 422, 503),
)
def get_request_entry(
    request_id: UUID,
    request: Request,
    caller: Reader,
    ledger: Ledger,
    kind: Annotated[
        Literal[LogKind.REQUEST, LogKind.DISMISSAL], Query(description="Of its receipt, or of its dismissal.")
    ] = LogKind.REQUEST,
) -> LogEntryBody:
    """The request's entry in the log with its proof; 404 while no checkpoint covers it, which takes about a minute."""
    return _entry(ledger, kind, request, caller.tenant_id, request_id)


@router.get(
    "/jobs/{job_id:uuid}/log-entry",
    summary="Show that a result was recorded",
    responses=problems(401, 403, 404, 422, 503),
)
def get_job_entry(job_id: UUID, request: Request, caller: ReportReader, ledger: Ledger) -> LogEntryBody:
    """The entry of the job's end in the log with its proof: give it to `expunge verify --log` with the job's signed statement."""
    return _entry(ledger, LogKind.RESULT, request, caller.tenant_id, job_id)


def _entry(ledger: Ledger, kind: LogKind, request: Request, tenant_id: UUID, subject_id: UUID) -> LogEntryBody:
    key = request.app.state.settings.sample_key_bytes
    proof = prove_entry(ledger, kind, tenant_id=tenant_id, subject_id=subject_id, sample_key=key)
    return LogEntryBody.model_validate(proof.to_json())
