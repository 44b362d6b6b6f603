"""Streams whose pace is the client's: a share of them for each tenant, files that they pass through, and long lists of digests.

No database transaction waits for a client. An upload is received into a file before its transaction begins; a list is read into a
file, in one transaction, before the first byte of it is sent.
"""

import hashlib
import logging
import os
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from functools import partial
from tempfile import SpooledTemporaryFile
from typing import IO, Any
from uuid import UUID

from anyio import fail_after
from fastapi import Request
from fastapi.concurrency import run_in_threadpool
from sqlalchemy import Subquery
from sqlalchemy.orm import Session
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from ledger.db import allow_long_statements
from ledger.requests.do_not_train import read_digests
from ledger.sample_ids import KEY_HEADER
from ledger.sample_key import read_fingerprint
from service.http.problems import NotReady, TooManyCalls
from service.http.sessions import Database

MAX_LISTS = 16
"""Lists that a process streams at once, a quarter of them for one tenant."""

SEND_SECONDS = 60.0
"""Seconds after which nothing more is sent to a reader that takes nothing."""

IN_MEMORY = 1024 * 1024
"""Bytes of a list that are kept in memory. A longer one is kept in a temporary file, 32 to 40 bytes a sample."""

MAX_FILES = 8
"""Files of weights that a process sends at once, a quarter of them to one tenant's servers."""

DIGEST_BYTES = 32

DIGESTS_A_CHUNK = 5000

DIGESTS: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "The digests, each on a line",
        "headers": {
            KEY_HEADER: {
                "description": "The fingerprint of the sample key that they are hashed under. Under another key nothing matches.",
                "schema": {"type": "string"},
            }
        },
        "content": {"text/plain": {"schema": {"type": "string"}}},
    }
}
"""The response with such a list, as the OpenAPI document describes it."""

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class Streams:
    """How many streams of one kind are open in this process, by tenant: at most `total`, and at most `share` of one tenant."""

    kind: str
    total: int
    share: int
    open: Counter[UUID] = field(default_factory=Counter)

    def check(self, tenant_id: UUID) -> None:
        """Raise NotReady if there are too many of all tenants, and TooManyCalls if there are too many of this one."""
        if self.open.total() >= self.total:
            raise NotReady(
                f"{self.total} {self.kind} are open; try again in a few seconds.", checks={self.kind: "full"}
            )
        if self.open[tenant_id] >= self.share:
            raise TooManyCalls(f"{self.share} {self.kind} of this tenant are open; try again later.", retry_after=10)

    @contextmanager
    def opened(self, tenant_id: UUID) -> Iterator[None]:
        """Count a stream as open. Raises what `check` raises."""
        self.check(tenant_id)
        self.open[tenant_id] += 1
        try:
            yield
        finally:
            self.open[tenant_id] -= 1
            self.open += Counter()  # drops the tenants without a stream


def open_spool() -> IO[bytes]:
    """Open a file that is in memory while it is small, and has no name on the disk when it is not."""
    return SpooledTemporaryFile(max_size=IN_MEMORY)


@contextmanager
def disk_errors_as_not_ready() -> Iterator[None]:
    """Turn a full or failing disk of this machine into NotReady."""
    try:
        yield
    except OSError as error:
        logger.error("the temporary folder cannot be written: %s", error)
        raise NotReady(
            "This server has no room for the list; try again later.", checks={"temporary_folder": "failed"}
        ) from error


async def stream_digests(request: Request, tenant_id: UUID, find: Callable[[Session], Subquery]) -> Response:
    """Respond with the list that `find` selects, as it is now: each digest in hex on a line.

    Raises NotReady and TooManyCalls if too many lists are open, and what `find` raises.
    """
    lists: Streams = request.app.state.lists
    lists.check(tenant_id)
    database: Database = request.app.state.database
    async with database.limiter:
        file, count, key = await run_in_threadpool(_read, database, find)
    return DigestList(file, count, key=key, opened=partial(lists.opened, tenant_id))


def _read(database: Database, find: Callable[[Session], Subquery]) -> tuple[IO[bytes], int, str | None]:
    """Copy a list from the database into a file, count it, and name the key that it is hashed under by its fingerprint."""
    file, count = open_spool(), 0
    try:
        with disk_errors_as_not_ready(), database.sessions() as session:
            allow_long_statements(session)
            with closing(read_digests(session, find(session))) as chunks:
                for digests in chunks:
                    file.write(b"".join(digests))
                    count += len(digests)
            key = read_fingerprint(session)
            file.seek(0)  # writes what is still buffered
    except BaseException:
        file.close()
        raise
    return file, count, key


class WeightsFile(Response):
    """Sends a file whose digest is known, and closes it however that ends. Its end is held back until the digest is checked."""

    media_type = "application/octet-stream"

    def __init__(self, file: IO[bytes], sha256: str, *, headers: dict[str, str], opened: Callable[[], Any]) -> None:
        super().__init__(headers=headers)
        self.headers["Content-Length"] = str(os.fstat(file.fileno()).st_size)
        self._file = file
        self._sha256 = sha256
        self._opened = opened

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the file as fast as the client takes it. A damaged one is broken off: the client gets less than was announced."""
        with closing(self._file), self._opened():
            if not await _send_in_time(send, _start(self), "a file of weights"):
                return
            found, held = hashlib.sha256(), b""
            while chunk := await run_in_threadpool(self._file.read, IN_MEMORY):
                found.update(chunk)
                if held and not await _send_in_time(send, _part(held), "a file of weights"):
                    return
                held = chunk
            if found.hexdigest() != self._sha256:
                logger.error("weights are broken off: SHA-256 %s in place of %s", found.hexdigest(), self._sha256)
                return
            await _send_in_time(send, _part(held, last=True), "a file of weights")


def _start(response: Response) -> Message:
    return {"type": "http.response.start", "status": response.status_code, "headers": response.raw_headers}


def _part(body: bytes, *, last: bool = False) -> Message:
    return {"type": "http.response.body", "body": body, "more_body": not last}


async def _send_in_time(send: Send, message: Message, what: str) -> bool:
    """Send a part of a response, and return whether its reader has taken within SEND_SECONDS what was sent before.

    The last part and the first one too: they wait for what is still unsent, that of an earlier call on the connection among it.
    """
    try:
        with fail_after(SEND_SECONDS):
            await send(message)
    except TimeoutError:
        logger.warning("%s is broken off: its reader took nothing for %.0f s", what, SEND_SECONDS)
        return False
    return True


class DigestList(Response):
    """Sends digests from a file, as many as `count`, and closes the file however that ends."""

    media_type = "text/plain"

    def __init__(self, file: IO[bytes], count: int, *, key: str | None, opened: Callable[[], Any]) -> None:
        super().__init__(headers={"Cache-Control": "no-store", **({} if key is None else {KEY_HEADER: key})})
        self.headers["Content-Length"] = str(count * (2 * DIGEST_BYTES + 1))
        self._file = file
        self._opened = opened

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the list as fast as the client takes it. A client that takes nothing for SEND_SECONDS gets no more."""
        with closing(self._file), self._opened():
            if not await _send_in_time(send, _start(self), "a list"):
                return
            while lines := await run_in_threadpool(self._next_lines):
                if not await _send_in_time(send, _part(lines), "a list"):
                    return
            await _send_in_time(send, _part(b"", last=True), "a list")

    def _next_lines(self) -> bytes:
        found = self._file.read(DIGEST_BYTES * DIGESTS_A_CHUNK)
        return found.hex("\n", DIGEST_BYTES).encode() + b"\n" if found else b""
