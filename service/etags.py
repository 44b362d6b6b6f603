"""Conditional answers (RFC 9110): a weak ETag over the body, and 304 where the client already has it."""

import hashlib
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
