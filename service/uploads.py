"""Receives a manifest: hashed at the door, a chunk at a time, and streamed on into the database."""

import time
from collections.abc import Iterable
from contextlib import ExitStack

from anyio import CancelScope
from fastapi import Request
from fastapi.concurrency import run_in_threadpool
from psycopg import Copy
from sqlalchemy.orm import Session
from starlette.requests import ClientDisconnect

from ledger import uploads
from ledger.access import Caller
from ledger.datasets import find_dataset
from ledger.samples import sample_digest
from ledger.uploads import ManifestView
from service.errors import InvalidLine, NotReady, UnsupportedMediaType
from service.digests import Streams
from service.sample_lines import FORMS, Lines, take, take_last
from service.session import Database

MAX_UPLOADS = 4
"""Uploads that a process receives at once: each holds a connection of its own for as long as its client takes."""

UPLOAD_TIMEOUT = 1800.0
"""Seconds that an upload may take."""


async def receive_manifest(request: Request, caller: Caller, *, dataset: str) -> ManifestView:
    """Read the body to its end and keep its samples, in one transaction: all or nothing.

    Raises UnknownDataset, UnsupportedMediaType, InvalidLine, EmptyManifest, BodyTooLarge, and NotReady where too many come at once.
    """
    media = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media not in FORMS:
        raise UnsupportedMediaType(f"Send the sample IDs one a line, as {' or '.join(FORMS)}.")
    receiving: Streams = request.app.state.uploads
    if receiving.open >= MAX_UPLOADS:
        raise NotReady(f"{MAX_UPLOADS} manifests are being received; try again in a minute.", checks={"uploads": "full"})
    receiving.open += 1
    database: Database = request.app.state.database
    session = database.sessions()
    try:
        await run_in_threadpool(find_dataset, session, tenant_id=caller.tenant_id, name=dataset)
        key: bytes = request.app.state.settings.sample_key_bytes
        await _stream(request, session, Lines(FORMS[media]), dataset=dataset, key=key)
        view = await run_in_threadpool(uploads.take_in, session, tenant_id=caller.tenant_id, dataset=dataset)
        await run_in_threadpool(session.commit)
        return view
    finally:
        receiving.open -= 1
        with CancelScope(shield=True):
            await run_in_threadpool(session.close)


async def _stream(request: Request, session: Session, lines: Lines, *, dataset: str, key: bytes) -> None:
    ends = time.monotonic() + UPLOAD_TIMEOUT
    with ExitStack() as stack:
        copy = await run_in_threadpool(lambda: stack.enter_context(uploads.receiving(session)))
        try:
            async for chunk in request.stream():
                await run_in_threadpool(_pass_on, copy, lines, chunk, dataset=dataset, key=key)
                if time.monotonic() > ends:
                    raise InvalidLine(f"The upload has taken longer than {UPLOAD_TIMEOUT:.0f} seconds; split it.")
        except ClientDisconnect:
            raise InvalidLine("The upload broke off.") from None
        await run_in_threadpool(_send, copy, take_last(lines), dataset=dataset, key=key)
        await run_in_threadpool(stack.close)


def _pass_on(copy: Copy, lines: Lines, chunk: bytes, *, dataset: str, key: bytes) -> None:
    _send(copy, take(lines, chunk), dataset=dataset, key=key)


def _send(copy: Copy, sample_ids: Iterable[str], *, dataset: str, key: bytes) -> None:
    uploads.send(copy, (sample_digest(key, dataset, sample_id) for sample_id in sample_ids))
