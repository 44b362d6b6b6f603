"""Logs: lines of JSON or of text, each with the IDs of the call and of the job that it belongs to.

Modules log through the standard library. structlog formats their records and those of the libraries alike. Bind IDs with
`structlog.contextvars.bound_contextvars`.

A log never holds a sample ID: no module logs what a caller sent, and an exception is logged as its type and its frames, because
its message may quote what it was raised about.
"""

import logging
import re
import sys
import traceback
from collections.abc import Iterable
from enum import StrEnum

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

SERVERS = ("uvicorn", "uvicorn.error")
"""Loggers to which Uvicorn gives handlers of its own."""


_CONTROL = re.compile("[\\x00-\\x1f\\x7f-\\x9f\\u2028\\u2029\\u202a-\\u202e\\u2066-\\u2069]")
"""Control characters, line separators, and marks that turn the direction of writing."""


class LogFormat(StrEnum):
    """How lines are written."""

    TEXT = "text"  # for a person at a terminal
    JSON = "json"  # one object a line


def configure(form: LogFormat) -> None:
    """Format the logs of a process that serves HTTP. Call it once, after Uvicorn has made its handlers.

    The root logger gets a handler unless it has one. Uvicorn's own line for each call is dropped: it holds the path as the caller
    sent it. `service.http.middleware` logs each call by its route.
    """
    access = logging.getLogger("uvicorn.access")
    access.handlers.clear()
    access.propagate = False
    root = logging.getLogger()
    if not root.handlers:
        handler = logging.StreamHandler(sys.stderr)
        root.addHandler(handler)
        root.setLevel(logging.INFO)
        format_handlers([handler], form)
    format_handlers((handler for name in SERVERS for handler in logging.getLogger(name).handlers), form)


def format_handlers(handlers: Iterable[logging.Handler], form: LogFormat) -> None:
    """Have these handlers write lines of this format."""
    formatter = make_formatter(form)
    for handler in handlers:
        handler.setFormatter(formatter)


def make_formatter(form: LogFormat) -> logging.Formatter:
    """Make the formatter. The fields of a line are at (RFC 3339, UTC), level, logger, message, the bound IDs, error and frames."""
    render: list[Processor] = (
        [structlog.processors.JSONRenderer(ensure_ascii=False, default=str)]
        if form is LogFormat.JSON
        else [
            _escape_controls,
            _join_frames,
            structlog.dev.ConsoleRenderer(colors=False, event_key="message", timestamp_key="at"),
        ]
    )
    return structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=[
            structlog.processors.TimeStamper(fmt="iso", utc=True, key="at"),
            structlog.stdlib.add_log_level,
            structlog.stdlib.add_logger_name,
            structlog.processors.EventRenamer("message"),
            structlog.contextvars.merge_contextvars,
            _describe_error,
        ],
        processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *render],
    )


def _describe_error(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    """Replace an exception by its type and frames, without its message."""
    kind, _error, frames = event.pop("exc_info", None) or (None, None, None)
    if kind is not None:
        event["error"] = kind.__name__
        event["frames"] = [f"{frame.filename}:{frame.lineno} {frame.name}" for frame in traceback.extract_tb(frames)]
    return event


def _escape_controls(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    """Write control characters as escapes, so that a text cannot begin a line of its own or steer a terminal."""
    return {name: _CONTROL.sub(_escape, value) if isinstance(value, str) else value for name, value in event.items()}


def _escape(found: re.Match[str]) -> str:
    return found[0].encode("unicode_escape").decode()


def _join_frames(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    """Let the text renderer print each frame on a line of its own."""
    frames = event.pop("frames", None)
    if frames:
        event["exception"] = "\n".join(f"  {frame}" for frame in frames)
    return event
