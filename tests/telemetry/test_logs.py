import json
import logging
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import httpx
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


@pytest.mark.parametrize("kept", [LogFormat.TEXT], indirect=True)
def test_a_text_cannot_begin_a_line_of_its_own_or_steer_a_terminal(kept: Keep) -> None:
    with bound_contextvars(job_id="a\nb"):
        logging.getLogger("test_logs").warning("it says %s", "x\r\n2026-01-01 [info] all is well\x1b[2J\u2028\u202e")

    (line,) = kept.lines
    assert len(line.splitlines()) == 1
    assert not any(character in line for character in "\r\n\x1b\u2028\u202e")
    assert "\\r\\n2026-01-01 [info] all is well\\x1b[2J" in line


def test_the_text_log_of_the_api_has_the_id_of_each_call_and_nothing_that_was_sent(tmp_path: Path) -> None:
    """As it is by default, in a process of its own."""
    with socket.create_server(("127.0.0.1", 0)) as listener, (tmp_path / "log").open("wb") as written:
        environment = os.environ | {
            "DATABASE_URL": "postgresql://nobody@127.0.0.1:1/nothing",
            "REDIS_URL": "redis://127.0.0.1:1/0",
            "EXPUNGE_SAMPLE_KEY": "ab" * 32,
        }
        command = [
            sys.executable,
            "-m",
            "uvicorn",
            "service.app:create_app",
            "--factory",
            "--fd",
            str(listener.fileno()),
        ]
        server = subprocess.Popen(
            command, env=environment, stdout=written, stderr=written, pass_fds=[listener.fileno()]
        )
        try:
            url = "http://{}:{}".format(*listener.getsockname())
            answer = httpx.get(f"{url}/models/{SAMPLE}", params={"q": SAMPLE}, timeout=120, trust_env=False)
        finally:
            server.terminate()
            server.wait(60)
    log = (tmp_path / "log").read_text()
    assert f"GET /models/{{name}} {answer.status_code}" in log
    assert f"call_id={answer.headers['X-Request-ID']}" in log
    assert SAMPLE not in log
