import json
import logging
from collections.abc import Iterator

import pytest

from telemetry.logs import JsonLines, about, configure, wants_json

SAMPLE = "patient-4711"


@pytest.fixture
def lines() -> Iterator[list[dict[str, object]]]:
    """What a logger of its own has written, line by line."""
    written: list[dict[str, object]] = []

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            written.append(json.loads(self.format(record)))

    handler = Keep()
    handler.setFormatter(JsonLines())
    logger = logging.getLogger("test_logs")
    logger.setLevel(logging.INFO)
    logger.addHandler(handler)
    yield written
    logger.removeHandler(handler)


def test_a_line_says_when_where_what_and_about_what(lines: list[dict[str, object]]) -> None:
    with about(job_id="j", attempt=2), about(step=7):
        logging.getLogger("test_logs").info("runs %s", "ltu")
    logging.getLogger("test_logs").warning("later")

    first, second = lines
    assert first["at"].endswith("+00:00")  # type: ignore[attr-defined]
    assert {"level": "info", "logger": "test_logs", "message": "runs ltu"}.items() <= first.items()
    assert {"job_id": "j", "attempt": "2", "step": "7"}.items() <= first.items()
    assert "job_id" not in second


def test_an_errors_message_is_left_out_because_it_may_quote_a_sample(lines: list[dict[str, object]]) -> None:
    try:
        raise KeyError(SAMPLE)
    except KeyError:
        logging.getLogger("test_logs").exception("it failed")

    (line,) = lines
    assert line["error"] == "KeyError"
    assert "test_logs.py" in str(line["frames"])
    assert SAMPLE not in json.dumps(line)


def test_a_text_of_several_lines_stays_on_one(lines: list[dict[str, object]]) -> None:
    logging.getLogger("test_logs").info("one\ntwo")

    assert lines[0]["message"] == "one\ntwo"


def test_nothing_changes_unless_it_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("EXPUNGE_LOG", raising=False)
    before = [handler.formatter for handler in logging.getLogger().handlers]
    configure()

    assert [handler.formatter for handler in logging.getLogger().handlers] == before


def test_an_unknown_form_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EXPUNGE_LOG", "xml")

    with pytest.raises(ValueError, match="json or text"):
        wants_json()
