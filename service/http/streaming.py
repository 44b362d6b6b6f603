"""Lists of digests of any length, streamed as text: one digest a line, with little in memory."""

from collections.abc import AsyncGenerator, AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any

from anyio import CancelScope
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import StreamingResponse
from sqlalchemy import Subquery
from sqlalchemy.orm import Session
from starlette.types import Send

from ledger.requests.do_not_train import read_digests
from service.http.problems import NotReady
from service.http.sessions import Database

MAX_LISTS = 4
"""Lists that a process streams at once: each holds a connection of its own for as long as its client takes."""

DIGESTS: dict[int | str, dict[str, Any]] = {
    200: {"description": "The digests, each on a line", "content": {"text/plain": {"schema": {"type": "string"}}}}
}
"""The response with such a list, as the OpenAPI document describes it."""


@dataclass(slots=True)
class Streams:
    """How many streams of one kind are open in this process."""

    open: int = 0


async def stream_digests(
    streams: Streams, database: Database, find: Callable[[Session], Subquery]
) -> StreamingResponse:
    """Stream the list that `find` selects, each digest in hex on a line, through one cursor.

    If the database goes away midway, the response breaks off, and no client takes it for complete. Raises NotReady if too many
    lists are open, and what `find` raises.
    """
    if streams.open >= MAX_LISTS:
        raise NotReady(f"{MAX_LISTS} lists are being read out; try again in a few seconds.", checks={"lists": "full"})

    def select() -> Subquery:
        with database.sessions() as session:
            return find(session)

    lines = _lines(streams, database, await run_in_threadpool(select))
    return _ClosingResponse(lines, media_type="text/plain", headers={"Cache-Control": "no-store"})


class _ClosingResponse(StreamingResponse):
    """Closes its lines when the response ends, also when the client leaves: garbage collection would do it much later, and keep the
    cursor and its connection until then.
    """

    async def stream_response(self, send: Send) -> None:
        """Send the lines, and close them however that ends."""
        lines = self.body_iterator
        assert isinstance(lines, AsyncGenerator)
        try:
            await super().stream_response(send)
        finally:
            with CancelScope(shield=True):
                await lines.aclose()


async def _lines(streams: Streams, database: Database, digests: Subquery) -> AsyncIterator[str]:
    # The session is opened here: a response whose client has already left is never started, and so never closed either.
    session = database.sessions()
    chunks = read_digests(session, digests)
    streams.open += 1
    try:
        while chunk := await run_in_threadpool(next, chunks, None):
            yield "".join(f"{digest.hex()}\n" for digest in chunk)
    finally:
        streams.open -= 1
        with CancelScope(shield=True):
            await run_in_threadpool(chunks.close)
            await run_in_threadpool(session.close)
