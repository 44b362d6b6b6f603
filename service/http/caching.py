"""Conditional answers (RFC 9110): a weak ETag over the body, and 304 where the client already has it."""

import hashlib
from collections.abc import Sequence
from typing import Any

from fastapi import Request, Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel

NOT_CHANGED: dict[int | str, dict[str, Any]] = {
    304: {"description": "Not changed since the ETag in If-None-Match"},
}
"""How the answer without a body is described in the OpenAPI document."""


def conditional(request: Request, body: BaseModel, *, headers: dict[str, str] | None = None) -> Response:
    """The body with its ETag, or 304 without a body where `If-None-Match` names it."""
    content = body.model_dump_json().encode()
    tag = f'W/"{hashlib.sha256(content).hexdigest()[:32]}"'
    headers = {"ETag": tag, "Cache-Control": "private, no-cache", **(headers or {})}
    if _names(request.headers.get("if-none-match", ""), tag):
        return Response(status_code=304, headers=headers)
    return Response(content, headers=headers, media_type=JSONResponse.media_type)


def _names(if_none_match: str, tag: str) -> bool:
    """Whether an If-None-Match header names the tag, by weak comparison."""
    wanted = tag.removeprefix("W/")
    return any(part.strip().removeprefix("W/") in (wanted, "*") for part in if_none_match.split(","))


def preferred(accept: str, offers: Sequence[str]) -> str:
    """The offered media type that the Accept header likes most; the first offer where it likes none or several alike."""
    wishes = [_wish(part) for part in accept.split(",") if part.strip()] or [("*/*", 1.0)]
    return max(offers, key=lambda offer: _quality(offer, wishes))  # of equals max takes the first


def _quality(offer: str, wishes: Sequence[tuple[str, float]]) -> float:
    """What the most specific wish that fits gives the offer."""
    by_range = dict(wishes)
    for media_range in (offer, offer.partition("/")[0] + "/*", "*/*"):
        if media_range in by_range:
            return by_range[media_range]
    return 0.0


def _wish(part: str) -> tuple[str, float]:
    media_range, *parameters = (piece.strip().lower() for piece in part.split(";"))
    quality = next((value[2:] for value in parameters if value.startswith("q=")), "1")
    try:
        return media_range, float(quality)
    except ValueError:
        return media_range, 0.0
