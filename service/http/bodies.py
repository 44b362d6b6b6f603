"""Bodies of requests: how large they may be, how long they may take to arrive, and strict JSON, parsed off the event loop."""

import json
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cache
from typing import Annotated, Any

from anyio import CapacityLimiter, fail_after
from fastapi import Depends, Request
from fastapi.concurrency import run_in_threadpool
from pydantic import TypeAdapter, ValidationError
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.http.problems import BodyStalled, BodyTooLarge, InvalidBody, MalformedJson, respond

IDLE_SECONDS = 30.0
"""Seconds without a byte after which a body is given up."""

BODY_SECONDS = 300.0
"""Seconds that a whole body may take, unless its path has a limit of its own."""

SMALL_BODY = 64 * 1024
"""Bytes of a body that is parsed at once. Larger ones are parsed in a thread, so that other calls are served meanwhile."""

LARGE_BODIES = 2
"""Large bodies that a process parses at once. Each may take fifteen times its size in memory for a moment."""

MAX_OBJECTS = 10_000
"""JSON objects in a body, at most, and keys of each of them. No body of this API has more than a few dozen."""


@dataclass(frozen=True, slots=True)
class Bounds:
    """How many bytes a body may have, how many seconds it may take, and what to do in place of sending more bytes."""

    size: int
    seconds: float = BODY_SECONDS
    advice: str = "No call of this path needs more."


class BodyLimit:
    """Refuses bodies beyond `bounds`, or beyond what `by_path` says for the path, while they stream in (pure ASGI).

    by_path: by pattern, in which `*` stands for any characters; the first that fits counts.
    A body that stalls is refused after IDLE_SECONDS, whether or not another chunk comes. Starlette's own middleware responds in
    plain text, whatever handlers the application has.
    """

    def __init__(self, app: ASGIApp, *, bounds: Bounds, by_path: Mapping[str, Bounds]) -> None:
        self.app = app
        self.bounds = bounds
        self.by_path = by_path

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Respond with 413 to a declared length above the limit; otherwise stop reading at the limit, with 413 or 408."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        fitting = (bounds for pattern, bounds in self.by_path.items() if fnmatchcase(scope["path"], pattern))
        bounds = next(fitting, self.bounds)
        refusal = BodyTooLarge(f"The body is larger than {bounds.size} bytes. {bounds.advice}")
        declared = Headers(scope=scope).get("content-length", "")
        if declared.isdecimal() and int(declared) > bounds.size:
            await respond(refusal)(scope, receive, send)
            return

        received, reading, ends = 0, True, math.inf

        async def receive_within_bounds() -> Message:
            nonlocal received, reading, ends
            if not reading:  # A response that streams waits here for its client to leave, for as long as that takes.
                return await receive()
            ends = min(ends, time.monotonic() + bounds.seconds)
            try:
                with fail_after(min(IDLE_SECONDS, max(0.0, ends - time.monotonic()))):
                    message = await receive()
            except TimeoutError:
                raise BodyStalled(
                    f"No byte of the body came for {IDLE_SECONDS:.0f} s, or all of it took longer than {bounds.seconds:.0f} s."
                ) from None
            reading = message["type"] == "http.request" and message.get("more_body", False)
            received += len(message.get("body", b""))
            if received > bounds.size:
                raise refusal
            return message

        async def send_and_read_no_more(message: Message) -> None:
            nonlocal reading
            reading = False
            await send(message)

        await self.app(scope, receive_within_bounds, send_and_read_no_more)


class JsonRequest(Request):
    """A request whose JSON is strict: no key twice in an object, and no NaN or Infinity, which are no JSON.

    model: what the route takes. A large body is parsed and validated in a thread, and the route gets the valid model.
    """

    def __init__(self, request: Request, model: Any) -> None:
        super().__init__(request.scope, request.receive)
        self._model = model

    async def json(self) -> Any:
        """Parse the body. Raises JSONDecodeError, MalformedJson, and InvalidBody for a large body that does not fit the model."""
        body = await self.body()
        if len(body) <= SMALL_BODY:
            return parse(body)
        limiter: CapacityLimiter = self.app.state.parsing
        async with limiter:
            return await run_in_threadpool(parse_and_validate, body, self._model)


async def _raw_body(request: Request) -> bytes:
    return await request.body()


RawBody = Annotated[bytes, Depends(_raw_body)]
"""The bytes of a body as they came, for a route that checks or repeats a signature."""


def parse(body: bytes) -> Any:
    """Parse strict JSON. Raises JSONDecodeError, and MalformedJson for a key that comes twice and for far too many objects."""
    objects = 0

    def make_object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        nonlocal objects
        objects += 1
        if objects > MAX_OBJECTS or len(pairs) > MAX_OBJECTS:
            raise MalformedJson(f"The body has more than {MAX_OBJECTS} objects, or one with more keys than that.")
        made = dict(pairs)
        if len(made) < len(pairs):
            raise MalformedJson("An object in the body has a key twice; send each key once.")
        return made

    return json.loads(body, object_pairs_hook=make_object, parse_constant=_refuse_constant)


def _refuse_constant(name: str) -> object:
    raise MalformedJson(f"{name} is not JSON; send a number.")


def parse_and_validate(body: bytes, model: Any) -> Any:
    """Parse strict JSON into the model. Raises what `parse` raises, and InvalidBody."""
    value = parse(body)
    try:
        return _adapter(model).validate_python(value, from_attributes=True)  # as FastAPI validates the small ones
    except ValidationError as error:
        faults = error.errors(include_url=False, include_input=False)
        raise InvalidBody([{**fault, "loc": ("body", *fault["loc"])} for fault in faults]) from None


@cache
def _adapter(model: Any) -> TypeAdapter[Any]:
    return TypeAdapter(model)
