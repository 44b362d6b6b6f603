"""Logs as lines of JSON, with the ids of what they are about: set `EXPUNGE_LOG=json`.

A line never holds a sample ID: nothing may log what a caller sent, and an error is told by its type and its frames, not by its
message, which may quote what it was about.
"""

import json
import logging
import os
import sys
import traceback
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from types import MappingProxyType

_ABOUT: ContextVar[Mapping[str, str]] = ContextVar("about", default=MappingProxyType({}))

OTHERS = ("", "uvicorn", "uvicorn.error", "celery", "celery.task")
"""Loggers, the root among them, to which a server may have given handlers of its own."""


@contextmanager
def about(**ids: object) -> Iterator[None]:
    """Put these ids (`call_id`, `request_id`, `job_id`, …) on every line that is logged within, in this thread or task."""
    token = _ABOUT.set({**_ABOUT.get(), **{name: str(value) for name, value in ids.items()}})
    try:
        yield
    finally:
        _ABOUT.reset(token)


class JsonLines(logging.Formatter):
    """One line of JSON a record: when (RFC 3339, UTC), how bad, where from, what, about what."""

    def format(self, record: logging.LogRecord) -> str:
        """The record's line."""
        line: dict[str, object] = {
            "at": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **_ABOUT.get(),
            **getattr(record, "ids", {}),
        }
        if record.exc_info and record.exc_info[0] is not None:
            line["error"] = record.exc_info[0].__name__
            line["frames"] = [f"{f.filename}:{f.lineno} {f.name}" for f in traceback.extract_tb(record.exc_info[2])]
        return json.dumps(line, ensure_ascii=False, default=str)


def wants_json() -> bool:
    """Whether the operator asked for JSON. Raises ValueError for anything but json and text."""
    asked = os.environ.get("EXPUNGE_LOG") or "text"
    if asked not in {"json", "text"}:
        raise ValueError(f"EXPUNGE_LOG must be json or text, not {asked!r}")
    return asked == "json"


def configure() -> None:
    """Log as the operator asked: call it once a process, after its server has made its own handlers.

    Uvicorn's own line for each call goes: it has the path as it was sent, and `service.http.access_log` has one with the ids.
    """
    if not wants_json():
        return
    access = logging.getLogger("uvicorn.access")
    access.handlers.clear()
    access.propagate = False
    root = logging.getLogger()
    if not root.handlers:
        root.addHandler(logging.StreamHandler(sys.stderr))
        root.setLevel(logging.INFO)
    write_json(handler for name in OTHERS for handler in logging.getLogger(name).handlers)


def write_json(handlers: Iterable[logging.Handler]) -> None:
    """Have these handlers write lines of JSON."""
    for handler in handlers:
        handler.setFormatter(JsonLines())
