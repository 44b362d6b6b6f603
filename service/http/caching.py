"""Representations (RFC 9110): ETags with 304 Not Modified, and the choice of a media type by `Accept`."""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

from fastapi import Request, Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel

NOT_CHANGED: dict[int | str, dict[str, Any]] = {
    304: {"description": "Not changed since the ETag in If-None-Match"},
}
"""The response without a body, as the OpenAPI document describes it."""


def conditional(request: Request, body: BaseModel, *, headers: dict[str, str] | None = None) -> Response:
    """Respond with the body and a weak ETag over it, or with 304 and no body if `If-None-Match` has that ETag."""
    content = body.model_dump_json().encode()
    tag = f'W/"{hashlib.sha256(content).hexdigest()[:32]}"'
    headers = {"ETag": tag, "Cache-Control": "private, no-cache", **(headers or {})}
    if matches(request.headers.get("if-none-match", ""), tag):
        return Response(status_code=304, headers=headers)
    return Response(content, headers=headers, media_type=JSONResponse.media_type)


def matches(if_none_match: str, tag: str) -> bool:
    """Return whether an If-None-Match header has the tag, by weak comparison."""
    wanted = tag.removeprefix("W/")
    return any(part.strip().removeprefix("W/") in (wanted, "*") for part in if_none_match.split(","))


def preferred(accept: str, offers: Sequence[str]) -> str:
    """Choose the offered media type that an Accept header prefers; the first offer if it prefers none of them."""
    ranges = dict(_parse_range(part) for part in accept.split(",") if part.strip()) or {"*/*": 1.0}
    return max(offers, key=lambda offer: _quality(offer, ranges))  # max returns the first of equals


def _parse_range(part: str) -> tuple[str, float]:
    """Split `text/html;q=0.5` into the media range and its quality. A quality that is no number counts as 0."""
    media_range, *parameters = (piece.strip().lower() for piece in part.split(";"))
    quality = next((value[2:] for value in parameters if value.startswith("q=")), "1")
    try:
        return media_range, float(quality)
    except ValueError:
        return media_range, 0.0


def _quality(offer: str, ranges: Mapping[str, float]) -> float:
    """Return the quality of the most specific range that covers the offer; 0 if none does."""
    covering = (offer, offer.partition("/")[0] + "/*", "*/*")
    return next((ranges[media_range] for media_range in covering if media_range in ranges), 0.0)
