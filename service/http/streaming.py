"""A list of digests as it is read: a line each, as text, whatever its length, with little in memory."""

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any

from anyio import CancelScope
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import StreamingResponse
from sqlalchemy import Subquery
from sqlalchemy.orm import Session

from ledger.requests.do_not_train import read_digests
from service.http.problems import NotReady
from service.http.sessions import Database

MOST = 4
"""Lists that a process reads out at once: each holds a connection of its own for as long as its client takes."""

DIGESTS: dict[int | str, dict[str, Any]] = {
    200: {"description": "The digests, each on a line", "content": {"text/plain": {"schema": {"type": "string"}}}}
}
"""How such a list is described in the OpenAPI document."""


@dataclass(slots=True)
class Streams:
    """How many streams are open in this process."""

    open: int = 0


async def stream_digests(
    streams: Streams, database: Database, find: Callable[[Session], Subquery]
) -> StreamingResponse:
    """The list that `find` names, each digest in hex on a line, read through one cursor; what `find` raises comes first.

    Where the database goes away in the middle the answer breaks off, and no client takes it for whole. Raises NotReady where too
    many are open.
    """
    if streams.open >= MOST:
        raise NotReady(f"{MOST} lists are being read out; try again in a few seconds.", checks={"lists": "full"})

    def named() -> Subquery:
        with database.sessions() as session:
            return find(session)

    listed = await run_in_threadpool(named)
    lines = _lines(streams, database, listed)
    return StreamingResponse(lines, media_type="text/plain", headers={"Cache-Control": "no-store"})


async def _lines(streams: Streams, database: Database, listed: Subquery) -> AsyncIterator[str]:
    # Opened here, because an answer whose client is gone already is never begun, and then never closed either.
    session = database.sessions()
    chunks = read_digests(session, listed)
    streams.open += 1
    try:
        while chunk := await run_in_threadpool(next, chunks, None):
            yield "".join(f"{digest.hex()}\n" for digest in chunk)
    finally:
        streams.open -= 1
        with CancelScope(shield=True):
            await run_in_threadpool(chunks.close)
            await run_in_threadpool(session.close)
