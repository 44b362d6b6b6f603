"""A job's timeline as it happens: server-sent events, read from the ledger once a second."""

import logging
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from uuid import UUID

import anyio
from fastapi.concurrency import run_in_threadpool
from sqlalchemy.exc import OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sse_starlette import EventSourceResponse, ServerSentEvent

from ledger.events import EventView, list_job_events
from ledger.jobs import get_job
from ledger.states import TERMINAL
from service.bodies.jobs import EventBody
from service.digests import Streams
from service.errors import NotReady
from service.session import Database

logger = logging.getLogger(__name__)

POLL_INTERVAL = 1.0
"""Seconds between two looks."""

MAX_STREAM_SECONDS = 900.0
"""Seconds after which a stream ends, and a revoked key reads no more; the client connects again with `Last-Event-ID`."""

MAX_STREAMS = 100
"""Streams that a process has open at once: each asks the ledger once a second."""


EVENTS_A_POLL = 200
"""Events that one look reads."""


def stream(streams: Streams, database: Database, *, tenant_id: UUID, job_id: UUID, after: int) -> EventSourceResponse:
    """The timeline from beyond the event `after`, until the job has ended. Raises NotReady where too many are open."""
    if streams.open >= MAX_STREAMS:
        raise NotReady(f"{MAX_STREAMS} streams are open already; poll GET /jobs/{{id}} instead.", checks={"streams": "full"})
    events = _events(streams, database, tenant_id=tenant_id, job_id=job_id, after=after)
    return EventSourceResponse(events, ping=15, headers={"Cache-Control": "no-store"})


async def _events(
    streams: Streams, database: Database, *, tenant_id: UUID, job_id: UUID, after: int
) -> AsyncIterator[ServerSentEvent]:
    streams.open += 1
    ends = time.monotonic() + MAX_STREAM_SECONDS
    try:
        while time.monotonic() < ends:
            async with database.turnstile:
                found, ended = await run_in_threadpool(_look, database, tenant_id=tenant_id, job_id=job_id, after=after)
            for event in found:
                after = event.id
                body = EventBody.model_validate(event)
                yield ServerSentEvent(body.model_dump_json(), event=event.kind, id=str(event.id))
            if ended:
                return
            await anyio.sleep(POLL_INTERVAL)
    finally:
        streams.open -= 1


def _look(database: Database, *, tenant_id: UUID, job_id: UUID, after: int) -> tuple[list[EventView], bool]:
    """What is new, and whether nothing can follow. The state comes first: its last event is committed with it."""
    try:
        with database.reading() as session:
            ended = get_job(session, tenant_id=tenant_id, job_id=job_id).state in TERMINAL
            found = list_job_events(session, tenant_id=tenant_id, job_id=job_id, after=after, limit=EVENTS_A_POLL)
    except (OperationalError, PoolTimeout) as error:
        logger.warning("a stream of events waits for the database: %s", type(error).__name__)
        return [], False
    return found, ended and len(found) < EVENTS_A_POLL
