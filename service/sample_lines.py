"""Sample IDs out of a body that streams in: one a line, as text or as NDJSON. No more than a line is ever kept."""

import json
from collections.abc import Callable
from dataclasses import dataclass

from service.errors import InvalidLine

MAX_LINE_BYTES = 4096
"""Bytes of a line, at most: an ID of 200 characters, escaped in every way that JSON has, fits."""

MAX_ID_LENGTH = 200
MAX_SAMPLE_IDS = 10_000_000


@dataclass(slots=True)
class Lines:
    """A body that is being cut into lines: how each is read, what is left of the last chunk, and how far it is."""

    read: Callable[[bytes], object]
    rest: bytes = b""
    line: int = 0
    found: int = 0


def take(lines: Lines, chunk: bytes) -> list[str]:
    """The IDs on the lines that this chunk completes; a blank line has none.

    What is wrong is told by the line's number and never by what stands on it: InvalidLine.
    """
    *whole, lines.rest = (lines.rest + chunk).split(b"\n")
    if len(lines.rest) > MAX_LINE_BYTES:
        raise InvalidLine(f"Line {lines.line + len(whole) + 1} is longer than {MAX_LINE_BYTES} bytes.")
    return [found for line in whole if (found := _read(lines, line)) is not None]


def take_last(lines: Lines) -> list[str]:
    """The ID on a last line without an end."""
    return take(lines, b"\n") if lines.rest else []


def _read(lines: Lines, line: bytes) -> str | None:
    lines.line += 1
    if not line.strip():
        return None
    try:
        found = lines.read(line) if len(line) <= MAX_LINE_BYTES else None
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, str) or not 1 <= len(found) <= MAX_ID_LENGTH:
        raise InvalidLine(f"Line {lines.line} holds no sample ID of 1 to {MAX_ID_LENGTH} characters in UTF-8.")
    lines.found += 1
    if lines.found > MAX_SAMPLE_IDS:
        raise InvalidLine(f"A manifest holds at most {MAX_SAMPLE_IDS} sample IDs; split it.")
    return found


def _text(line: bytes) -> object:
    return line.removesuffix(b"\r").decode()


def _json(line: bytes) -> object:
    value = json.loads(line)
    value = value.get("sample_id") if isinstance(value, dict) and len(value) == 1 else value
    if isinstance(value, str):
        value.encode()  # a lone surrogate has no UTF-8 form: ValueError
    return value


FORMS: dict[str, Callable[[bytes], object]] = {"text/plain": _text, "application/x-ndjson": _json}
"""How a line is read, by the media type: the ID itself; or a JSON string, or an object with `sample_id` alone."""
