"""Uploads: lists of sample IDs that are sent ahead of a request."""

import json
import time
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Annotated
from uuid import UUID

from anyio import CancelScope
from fastapi import APIRouter, Query, Request, Response
from fastapi.concurrency import run_in_threadpool
from psycopg import Copy
from sqlalchemy.orm import Session
from starlette.requests import ClientDisconnect

from ledger.registry.access import Caller
from ledger.registry.datasets import find_dataset
from ledger.requests import uploads
from ledger.requests.uploads import delete_upload, get_upload
from ledger.resources import Upload
from ledger.sample_ids import sample_digest
from service.http.authentication import Writer
from service.http.fields import Name
from service.http.openapi import problems
from service.http.problems import InvalidLine, NotReady, UnsupportedMediaType
from service.http.sessions import Database, Ledger
from service.http.streaming import Streams

MAX_LINE_BYTES = 4096
"""Bytes of a line, at most. An ID of 200 characters fits, however JSON escapes it."""

MAX_ID_LENGTH = 200
MAX_SAMPLE_IDS = 10_000_000

MAX_UPLOADS = 4
"""Uploads that a process receives at once. Each holds a database connection for as long as its client takes."""

UPLOAD_TIMEOUT = 1800.0
"""Seconds that an upload may take."""

router = APIRouter(tags=["unlearn requests"])


@dataclass(slots=True)
class Lines:
    """A body that is being split into lines: how a line is read, the rest of the last chunk, the lines and the IDs so far."""

    read: Callable[[bytes], object]
    rest: bytes = b""
    line: int = 0
    found: int = 0


def take(lines: Lines, chunk: bytes) -> list[str]:
    """Read the IDs on the lines that this chunk completes. Blank lines are skipped.

    Raises InvalidLine, which names the line by its number and never quotes it.
    """
    *whole, lines.rest = (lines.rest + chunk).split(b"\n")
    if len(lines.rest) > MAX_LINE_BYTES:
        raise InvalidLine(f"Line {lines.line + len(whole) + 1} is longer than {MAX_LINE_BYTES} bytes.")
    return [found for line in whole if (found := _read(lines, line)) is not None]


def take_last(lines: Lines) -> list[str]:
    """Read the ID on a last line that has no end."""
    return take(lines, b"\n") if lines.rest else []


def _read(lines: Lines, line: bytes) -> str | None:
    lines.line += 1
    if not line.strip():
        return None
    try:
        found = lines.read(line) if len(line) <= MAX_LINE_BYTES else None
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, str) or not 1 <= len(found) <= MAX_ID_LENGTH:
        raise InvalidLine(f"Line {lines.line} holds no sample ID of 1 to {MAX_ID_LENGTH} characters in UTF-8.")
    lines.found += 1
    if lines.found > MAX_SAMPLE_IDS:
        raise InvalidLine(f"An upload holds at most {MAX_SAMPLE_IDS} sample IDs; split it.")
    return found


def _text(line: bytes) -> object:
    return line.removesuffix(b"\r").decode()


def _json(line: bytes) -> object:
    value = json.loads(line)
    value = value.get("sample_id") if isinstance(value, dict) and len(value) == 1 else value
    if isinstance(value, str):
        value.encode()  # a lone surrogate has no UTF-8 form: ValueError
    return value


FORMS: dict[str, Callable[[bytes], object]] = {"text/plain": _text, "application/x-ndjson": _json}
"""How a line is read, by media type: it is the ID; or it is a JSON string, or an object with `sample_id` alone."""

_BODY = {
    "required": True,
    "description": "One sample ID a line: as it is; or, in NDJSON, a string or an object with `sample_id` alone.",
    "content": {media: {"schema": {"type": "string"}} for media in FORMS},
}


_READ = problems(401, 403, 404, 422, 503)


@router.post(
    "/manifests",
    status_code=201,
    summary="Upload sample IDs (older path)",
    responses=problems(400, 401, 403, 404, 413, 415, 422, 503),
    openapi_extra={"requestBody": _BODY},
    deprecated=True,
)
@router.post(
    "/uploads",
    status_code=201,
    summary="Upload sample IDs",
    responses=problems(400, 401, 403, 404, 413, 415, 422, 503),
    openapi_extra={"requestBody": _BODY},
)
async def post_upload(
    request: Request, caller: Writer, dataset: Annotated[Name, Query(description="Name of a registered dataset.")]
) -> Upload:
    """Takes up to ten million sample IDs, each counted once, and keeps their keyed hashes for a week.

    Name the upload's id in `upload` of POST /unlearn-requests.
    """
    return await receive_upload(request, caller, dataset=dataset)


@router.get("/manifests/{upload_id:uuid}", summary="One upload (older path)", responses=_READ, deprecated=True)
@router.get("/uploads/{upload_id:uuid}", summary="One upload", responses=_READ)
def get_one_upload(upload_id: UUID, caller: Writer, ledger: Ledger) -> Upload:
    """How many samples it holds, and until when it can be used."""
    return get_upload(ledger, tenant_id=caller.tenant_id, upload_id=upload_id)


@router.delete(
    "/manifests/{upload_id:uuid}",
    status_code=204,
    summary="Delete an upload (older path)",
    responses=_READ,
    deprecated=True,
)
@router.delete("/uploads/{upload_id:uuid}", status_code=204, summary="Delete an upload", responses=_READ)
def delete_one_upload(upload_id: UUID, caller: Writer, ledger: Ledger) -> Response:
    """Deletes the uploaded list. Requests that were made with it stay."""
    delete_upload(ledger, tenant_id=caller.tenant_id, upload_id=upload_id)
    return Response(status_code=204)


async def receive_upload(request: Request, caller: Caller, *, dataset: str) -> Upload:
    """Read the body to its end and store its samples in one transaction: all or nothing.

    Raises UnknownDataset, UnsupportedMediaType, InvalidLine, EmptyUpload, BodyTooLarge, and NotReady if too many come at once.
    """
    media = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media not in FORMS:
        raise UnsupportedMediaType(f"Send the sample IDs one a line, as {' or '.join(FORMS)}.")
    receiving: Streams = request.app.state.uploads
    if receiving.open >= MAX_UPLOADS:
        raise NotReady(f"{MAX_UPLOADS} uploads are being received; try again in a minute.", checks={"uploads": "full"})
    receiving.open += 1
    database: Database = request.app.state.database
    session = database.sessions()
    try:
        await run_in_threadpool(find_dataset, session, tenant_id=caller.tenant_id, name=dataset)
        key: bytes = request.app.state.settings.sample_key_bytes
        await _stream(request, session, Lines(FORMS[media]), dataset=dataset, key=key)
        upload = await run_in_threadpool(uploads.store_upload, session, tenant_id=caller.tenant_id, dataset=dataset)
        await run_in_threadpool(session.commit)
        return upload
    finally:
        receiving.open -= 1
        with CancelScope(shield=True):
            await run_in_threadpool(session.close)


async def _stream(request: Request, session: Session, lines: Lines, *, dataset: str, key: bytes) -> None:
    ends = time.monotonic() + UPLOAD_TIMEOUT
    with ExitStack() as stack:
        copy = await run_in_threadpool(lambda: stack.enter_context(uploads.receive_digests(session)))
        try:
            async for chunk in request.stream():
                await run_in_threadpool(_send_chunk, copy, lines, chunk, dataset=dataset, key=key)
                if time.monotonic() > ends:
                    raise InvalidLine(f"The upload has taken longer than {UPLOAD_TIMEOUT:.0f} seconds; split it.")
        except ClientDisconnect:
            raise InvalidLine("The upload broke off.") from None
        await run_in_threadpool(_send, copy, take_last(lines), dataset=dataset, key=key)
        await run_in_threadpool(stack.close)


def _send_chunk(copy: Copy, lines: Lines, chunk: bytes, *, dataset: str, key: bytes) -> None:
    _send(copy, take(lines, chunk), dataset=dataset, key=key)


def _send(copy: Copy, sample_ids: Iterable[str], *, dataset: str, key: bytes) -> None:
    uploads.send_digests(copy, (sample_digest(key, dataset, sample_id) for sample_id in sample_ids))
