"""Uploads: lists of sample IDs, or of people, that are sent ahead of a request."""

import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import IO, Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Query, Request, Response
from fastapi.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect

from ledger.registry.access import Caller
from ledger.registry.datasets import find_dataset
from ledger.requests import uploads
from ledger.requests.uploads import delete_upload, get_upload
from ledger.resources import Upload
from ledger.sample_ids import commit_to_subject, sample_digest, subject_digest
from ledger.sample_key import check_sample_key
from service.http.authentication import ApiRoute, Writer
from service.http.bodies import parse
from service.http.fields import Name
from service.http.openapi import problems
from service.http.problems import InvalidLine, MalformedJson, UnsupportedMediaType
from service.http.sessions import Database, Ledger
from service.http.streaming import Streams, disk_errors_as_not_ready, open_spool
from verifier.sample_ids import InvalidSampleID, check_sample_id, line_to_id

MAX_LINE_BYTES = 4096
"""Bytes of a line, at most. An ID of 200 characters fits, however JSON escapes it."""

MAX_SAMPLE_IDS = 10_000_000

MAX_UPLOADS = 16
"""Uploads that a process receives at once, a quarter of them from one tenant. Each has a file in the temporary folder."""

UPLOAD_SECONDS = 1800.0
"""Seconds that an upload may take to arrive."""

SPLIT = "Split the list over several uploads, with a request for each."
"""What to do with a list that is too large."""

RECORD = struct.Struct(">32sq")
"""A received sample, as it is kept in the file until all have come: its digest, and the number of its line."""

SUBJECT_RECORD = struct.Struct(">32sq32s")
"""The same of a person, and the sealed commitment."""

RECORDS_A_CHUNK = 10_000

router = APIRouter(route_class=ApiRoute, tags=["unlearn requests"])


@dataclass(slots=True)
class Lines:
    """A body that is being split into lines: how a line is read, the rest of the last chunk, the lines and the IDs so far.

    name: what the IDs are called, for messages.
    """

    read: Callable[[bytes], str | None]
    name: str = "sample ID"
    rest: bytes = b""
    line: int = 0
    found: int = 0


def take(lines: Lines, chunk: bytes) -> list[tuple[int, str]]:
    """Read the IDs on the lines that this chunk completes, each with the number of its line, from 1. Blank lines are skipped.

    Raises InvalidLine, which names the line by its number and never quotes it.
    """
    *whole, lines.rest = (lines.rest + chunk).split(b"\n")
    if len(lines.rest) > MAX_LINE_BYTES:
        raise InvalidLine(f"Line {lines.line + len(whole) + 1} is longer than {MAX_LINE_BYTES} bytes.")
    return [(lines.line, found) for line in whole if (found := _read(lines, line)) is not None]


def take_last(lines: Lines) -> list[tuple[int, str]]:
    """Read the ID on a last line that has no end."""
    return take(lines, b"\n") if lines.rest else []


def _read(lines: Lines, line: bytes) -> str | None:
    lines.line += 1
    if lines.line == 1:
        line = line.removeprefix(b"\xef\xbb\xbf")  # a byte order mark: what some editors and spreadsheets write first
    if not line.strip():
        return None
    if len(line) > MAX_LINE_BYTES:
        raise InvalidLine(f"Line {lines.line} is longer than {MAX_LINE_BYTES} bytes.")
    try:
        found = lines.read(line)
    except InvalidSampleID as fault:
        raise InvalidLine(f"The {lines.name} on line {lines.line} {fault}.") from None
    except (ValueError, RecursionError, MalformedJson):
        raise InvalidLine(f"Line {lines.line} holds no {lines.name}: see the upload's media type.") from None
    if found is not None:
        lines.found += 1
    if lines.found > MAX_SAMPLE_IDS:
        raise InvalidLine(f"An upload holds at most {MAX_SAMPLE_IDS} {lines.name}s; split it.")
    return found


def _text(line: bytes) -> str | None:
    return line_to_id(line.decode())


def _json(line: bytes, *, field: str) -> str:
    value = parse(line)
    value = value.get(field) if isinstance(value, dict) and len(value) == 1 else value
    if isinstance(value, int | float) and not isinstance(value, bool):
        raise InvalidSampleID('is a number; write it as a string, such as "7"')
    if not isinstance(value, str):
        raise ValueError("no string")
    return check_sample_id(value)


TEXT, NDJSON = "text/plain", "application/x-ndjson"

FORMS: dict[str, dict[str, Callable[[bytes], str | None]]] = {
    name: {TEXT: _text, NDJSON: partial(_json, field=field)}
    for name, field in (("sample ID", "sample_id"), ("subject", "subject"))
}
"""How a line is read, by what is listed and by media type: it is the ID; or a JSON string, or an object with that field alone."""


def _body(name: str, field: str) -> dict[str, Any]:
    """Describe the body of an upload for the OpenAPI document."""
    return {
        "requestBody": {
            "required": True,
            "description": f"One {name} a line: as it is; or, in NDJSON, a string or an object with `{field}` alone.",
            "content": {media: {"schema": {"type": "string"}} for media in FORMS[name]},
        }
    }


_WRONG = problems(400, 401, 403, 404, 413, 415, 422, 503)

_READ = problems(401, 403, 404, 422, 503)


@router.post(
    "/manifests",
    status_code=201,
    summary="Upload sample IDs (older path)",
    responses=_WRONG,
    openapi_extra=_body("sample ID", "sample_id"),
    deprecated=True,
)
@router.post(
    "/uploads",
    status_code=201,
    summary="Upload sample IDs",
    responses=_WRONG,
    openapi_extra=_body("sample ID", "sample_id"),
)
async def post_upload(
    request: Request, caller: Writer, dataset: Annotated[Name, Query(description="Name of a registered dataset.")]
) -> Upload:
    """Takes up to ten million sample IDs, each counted once, and keeps their keyed hashes for a week.

    Name the upload's id in `upload` of POST /unlearn-requests.
    """
    return await receive_upload(request, caller, dataset=dataset)


@router.post(
    "/uploads/subjects",
    status_code=201,
    summary="Upload people",
    responses=_WRONG,
    openapi_extra=_body("subject", "subject"),
)
async def post_subjects(request: Request, caller: Writer) -> Upload:
    """Takes up to ten million subjects, each counted once, and keeps their keyed hashes for a week. They belong to no dataset.

    Name the upload's id in `upload` of POST /unlearn-requests, which says in which datasets their samples are meant.
    """
    return await receive_upload(request, caller, dataset=None)


@router.get("/manifests/{upload_id:uuid}", summary="One upload (older path)", responses=_READ, deprecated=True)
@router.get("/uploads/{upload_id:uuid}", summary="One upload", responses=_READ)
def get_one_upload(upload_id: UUID, caller: Writer, ledger: Ledger) -> Upload:
    """How many samples or people it holds, and until when it can be used."""
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


async def receive_upload(request: Request, caller: Caller, *, dataset: str | None) -> Upload:
    """Read the body to its end, then store its sample IDs, or without a dataset its subjects, in one transaction: all or nothing.

    Raises UnknownDataset, UnsupportedMediaType, InvalidLine, EmptyUpload, BodyTooLarge, BodyStalled, WrongSampleKey, and NotReady
    and TooManyCalls if too many come at once.
    """
    media = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    name = "subject" if dataset is None else "sample ID"
    if media not in FORMS[name]:
        raise UnsupportedMediaType(f"Send the {name}s one a line, as {' or '.join(FORMS[name])}.")
    receiving: Streams = request.app.state.uploads
    database: Database = request.app.state.database
    with receiving.opened(caller.tenant_id), open_spool() as file:
        key: bytes = request.app.state.settings.sample_key_bytes
        pack = partial(_pack_subject, key)
        if dataset is not None:
            async with database.limiter:
                await run_in_threadpool(_check_dataset, database, tenant_id=caller.tenant_id, dataset=dataset)
            pack = partial(_pack_sample, key, dataset)
        await _receive(request, file, Lines(FORMS[name][media], name), pack)
        async with database.limiter:
            return await run_in_threadpool(_store, database, file, tenant_id=caller.tenant_id, dataset=dataset, key=key)


def _check_dataset(database: Database, *, tenant_id: UUID, dataset: str) -> None:
    with database.reading() as session:
        find_dataset(session, tenant_id=tenant_id, name=dataset)


def _pack_sample(key: bytes, dataset: str, sample_id: str, line: int) -> bytes:
    return RECORD.pack(sample_digest(key, dataset, sample_id), line)


def _pack_subject(key: bytes, subject: str, line: int) -> bytes:
    return SUBJECT_RECORD.pack(subject_digest(key, subject), line, commit_to_subject(key, subject))


async def _receive(request: Request, file: IO[bytes], lines: Lines, pack: Callable[[str, int], bytes]) -> None:
    """Write the digests of the body's IDs into a file, each with the number of its line."""

    def write(chunk: bytes | None) -> None:
        found = take_last(lines) if chunk is None else take(lines, chunk)
        with disk_errors_as_not_ready():
            file.write(b"".join(pack(one, line) for line, one in found))

    try:
        async for chunk in request.stream():
            await run_in_threadpool(write, chunk)
    except ClientDisconnect:
        raise InvalidLine("The upload broke off.") from None
    await run_in_threadpool(write, None)


def _store(database: Database, file: IO[bytes], *, tenant_id: UUID, dataset: str | None, key: bytes) -> Upload:
    with disk_errors_as_not_ready():
        file.seek(0)  # writes what is still buffered
    with database.sessions.begin() as session:
        check_sample_key(session, key)
        with uploads.receive_digests(session) as copy:
            for records in _chunks(file, SUBJECT_RECORD.size if dataset is None else RECORD.size):
                if dataset is None:
                    uploads.send_subjects(copy, SUBJECT_RECORD.iter_unpack(records))
                else:
                    uploads.send_digests(copy, RECORD.iter_unpack(records))
        return uploads.store_upload(session, tenant_id=tenant_id, dataset=dataset)


def _chunks(file: IO[bytes], size: int) -> Iterator[bytes]:
    while found := file.read(size * RECORDS_A_CHUNK):
        yield found
