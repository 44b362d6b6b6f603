import json
import logging
from collections.abc import Iterator
from datetime import UTC, datetime

import pytest
from structlog.contextvars import bound_contextvars

from telemetry.logs import LogFormat, configure, make_formatter

SAMPLE = "patient-4711"


class Keep(logging.Handler):
    """Keeps what it formats."""

    def __init__(self, form: LogFormat) -> None:
        super().__init__()
        self.setFormatter(make_formatter(form))
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(self.format(record))


@pytest.fixture(params=LogFormat)
def kept(request: pytest.FixtureRequest) -> Iterator[Keep]:
    """What a logger of its own has written, in either format."""
    handler = Keep(request.param)
    logger = logging.getLogger("test_logs")
    logger.setLevel(logging.INFO)
    logger.addHandler(handler)
    yield handler
    logger.removeHandler(handler)


def test_an_exceptions_message_is_left_out_because_it_may_quote_a_sample(kept: Keep) -> None:
    try:
        raise KeyError(SAMPLE)
    except KeyError:
        logging.getLogger("test_logs").exception("it failed")

    (line,) = kept.lines
    assert "KeyError" in line
    assert "test_logs.py" in line
    assert SAMPLE not in line


@pytest.mark.parametrize("kept", [LogFormat.TEXT], indirect=True)
def test_a_line_of_text_has_the_message_and_the_bound_ids(kept: Keep) -> None:
    with bound_contextvars(job_id="j"):
        logging.getLogger("test_logs").info("runs %s", "ltu")

    (line,) = kept.lines
    assert "runs ltu" in line
    assert "job_id=j" in line


@pytest.mark.parametrize("kept", [LogFormat.JSON], indirect=True)
def test_a_line_of_json_has_time_level_logger_message_and_the_bound_ids(kept: Keep) -> None:
    with bound_contextvars(job_id="j", attempt=2), bound_contextvars(step=7):
        logging.getLogger("test_logs").info("runs %s", "ltu")
    logging.getLogger("test_logs").warning("later")

    first, second = map(json.loads, kept.lines)
    assert datetime.fromisoformat(first["at"]).tzinfo == UTC
    assert {"level": "info", "logger": "test_logs", "message": "runs ltu"}.items() <= first.items()
    assert {"job_id": "j", "attempt": 2, "step": 7}.items() <= first.items()
    assert "job_id" not in second


@pytest.mark.parametrize("kept", [LogFormat.JSON], indirect=True)
def test_an_exception_is_its_type_and_its_frames(kept: Keep) -> None:
    try:
        raise KeyError(SAMPLE)
    except KeyError as error:
        logging.getLogger("test_logs").error("it failed", exc_info=error)

    line = json.loads(kept.lines[0])
    assert (line["error"], len(line["frames"])) == ("KeyError", 1)


@pytest.mark.parametrize("kept", [LogFormat.JSON], indirect=True)
def test_a_message_of_several_lines_stays_on_one(kept: Keep) -> None:
    logging.getLogger("test_logs").info("one\ntwo")

    assert json.loads(kept.lines[0])["message"] == "one\ntwo"
    assert "\n" not in kept.lines[0]


def test_handlers_of_the_root_logger_are_left_to_whoever_made_them() -> None:
    root = logging.getLogger()
    before = [(handler, handler.formatter) for handler in root.handlers]
    assert before, "pytest has handlers of its own"

    configure(LogFormat.JSON)

    assert [(handler, handler.formatter) for handler in root.handlers] == before
