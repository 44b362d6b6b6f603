import io
import json
import os
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import httpx
import pytest
import typer
from typer.testing import CliRunner

from expunge.cli import caller
from expunge.cli.caller import (
    check_ids,
    find_sample_key,
    format_approval,
    format_end,
    format_fallback,
    format_without_jobs,
    open_client,
    parse_moment,
)
from expunge.cli.main import app
from expunge.stack.folder import lock_folder, sample_key, write_stack_settings
from ledger.resources import Fallback, SampleCounts, Target, UnlearnRequest
from ledger.sample_ids import KEY_HEADER, key_fingerprint, subject_digest
from ledger.states import JobState, Phase, Reason, RequestState, Verdict
from report.formatting import duration
from tests.expunge.stack.test_folder import SETTINGS
from tests.expunge.test_client import JOB, answering

ENDED = JOB.model_copy(update={"state": JobState.COMPLETED, "method": {"kind": "ieu"}})


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"verdict": Verdict.INCONCLUSIVE}, "completed: inconclusive, by ieu."),
        (
            {"state": JobState.FAILED, "reason": Reason.DISK_FULL, "detail": "The disk is full."},
            "failed: disk_full. The disk is full.",
        ),
        ({"state": JobState.CANCELLED, "reason": Reason.CANCELLED_BY_CALLER}, "cancelled: cancelled_by_caller."),
    ],
)
def test_a_jobs_end_is_one_line(changes: dict[str, object], line: str) -> None:
    assert format_end(ENDED.model_copy(update=changes)) == f"Job {JOB.id} {line}"


def test_a_method_that_follows_another_is_named_with_the_reason_and_the_time_it_takes() -> None:
    fallback = Fallback(after="ieu", why="Not verified.", seconds=90.0, at=datetime.now(UTC))
    job = ENDED.model_copy(update={"method": {"kind": "retrain"}})
    assert format_fallback(job, fallback) == f"Retrain follows IEU. It takes about {duration(90.0)}. Not verified."
    assert format_fallback(job, fallback.model_copy(update={"seconds": None})) == "Retrain follows IEU. Not verified."


def test_a_job_that_awaits_approval_says_why_and_how_to_decide() -> None:
    given = {
        "state": JobState.AWAITING_APPROVAL,
        "phase": Phase.PUBLISH,
        "reason": Reason.UTILITY_DROP,
        "detail": "9.4 points",
    }
    job = JOB.model_copy(update=given)
    decide = f"Decide with:\n  expunge approve {JOB.id}\n  expunge reject {JOB.id}"
    assert format_approval(job) == f"Its version awaits approval: utility_drop. 9.4 points. {decide}"
    run = job.model_copy(update={"phase": Phase.WAITING, "reason": None, "detail": None})
    assert format_approval(run) == f"Its run awaits approval. {decide}"


def test_the_sample_key_is_the_given_one_else_the_running_stacks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with lock_folder(tmp_path / ".expunge") as folder:
        write_stack_settings(folder, SETTINGS)
        made = sample_key(folder)
        assert find_sample_key(None).hex() == made
        assert find_sample_key("cd" * 32) == b"\xcd" * 32


def test_the_running_stack_is_that_of_the_data_folder_that_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("EXPUNGE_DATA", str(tmp_path / "elsewhere"))
    with lock_folder(tmp_path / "elsewhere") as folder:
        write_stack_settings(folder, SETTINGS)
        made = sample_key(folder)
        assert find_sample_key(None).hex() == made
        with open_client(None, "key") as http:
            assert str(http.base_url).rstrip("/") == SETTINGS.api_url.rstrip("/")


def test_a_model_of_a_request_that_needs_no_job_is_named_with_the_reason() -> None:
    counts = SampleCounts(accepted=0, already_erased=2, not_in_training_set=0)
    target = Target.model_construct(
        model="digits", state=RequestState.COMPLETED, reason=Reason.ALREADY_ERASED, samples=counts, job=None
    )
    request = UnlearnRequest.model_construct(state=RequestState.COMPLETED, targets=(target,))
    assert format_without_jobs(request) == ["No job for digits: already_erased."]
    (hidden,) = format_without_jobs(UnlearnRequest.model_construct(state=None, targets=()))
    assert "requests:read" in hidden


def test_without_a_running_stack_the_command_asks_for_the_sample_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".expunge").mkdir()
    monkeypatch.setattr(typer, "prompt", lambda *_, **__: "ab" * 32)
    monkeypatch.setattr(caller, "has_terminal", lambda: True)
    assert find_sample_key(None) == b"\xab" * 32
    monkeypatch.setattr(caller, "has_terminal", lambda: False)
    with pytest.raises(typer.BadParameter, match="EXPUNGE_SAMPLE_KEY"):
        find_sample_key(None)


def test_without_a_key_and_a_terminal_the_command_names_the_variable() -> None:
    environment = {name: value for name, value in os.environ.items() if name != "EXPUNGE_API_KEY"}
    command = [sys.executable, "-m", "expunge.cli", "submit", "--dataset", "digits", "image-1"]
    ended = subprocess.run(
        command, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, start_new_session=True
    )
    assert ended.returncode == 2
    assert "EXPUNGE_API_KEY" in ended.stderr


@pytest.mark.parametrize("wrong", ["xyz", "ab"])
def test_a_malformed_sample_key_is_refused(wrong: str) -> None:
    with pytest.raises(typer.BadParameter, match="64 hex digits"):
        find_sample_key(wrong)


def test_an_id_that_breaks_the_rule_is_named_by_its_place() -> None:
    with pytest.raises(typer.BadParameter, match="Sample ID 2") as raised:
        list(check_ids(["a", " person"]))
    assert "person" not in str(raised.value)


def test_when_the_clock_began_and_whose_case_it_is_are_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        sent.append(request)
        return httpx.Response(422, json={"title": "Refused", "status": 422, "code": "invalid"})

    def connect(url: str | None, key: str) -> httpx.Client:
        return httpx.Client(transport=httpx.MockTransport(answer), base_url="http://service")

    monkeypatch.setattr(caller, "open_client", connect)
    asked = [
        "--received-at",
        "2026-01-31T09:00:00Z",
        "--external-id",
        "DSR-7",
        "--expedite",
        "--idempotency-key",
        "one",
    ]

    ended = CliRunner().invoke(app, ["submit", "--key", "expunge_x", "--dataset", "digits", *asked, "image-1"])

    assert ended.exit_code != 0
    assert sent[0].headers["Idempotency-Key"] == "one"
    body = json.loads(sent[0].content)
    assert (body["external_id"], body["expedite"]) == ("DSR-7", True)
    assert datetime.fromisoformat(body["received_at"]) == datetime(2026, 1, 31, 9, tzinfo=UTC)


@pytest.mark.parametrize("wrong", ["yesterday", "2026-01-31T09:00:00"])
def test_a_time_without_an_offset_is_refused(wrong: str) -> None:
    with pytest.raises(typer.BadParameter, match="offset"):
        parse_moment(wrong)


def test_a_request_for_nothing_is_refused_before_it_is_sent() -> None:
    ended = CliRunner().invoke(
        app, ["submit", "--key", "expunge_x", "--dataset", "digits", "--url", "http://127.0.0.1:9"]
    )
    assert ended.exit_code == 2
    assert "Name the samples" in ended.output


def test_a_do_not_train_list_names_everybody_whatever_letters_the_terminal_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A "?" in a name would let the person's samples into the next training."""
    people, sample_key = tmp_path / "people.txt", bytes(32)
    people.write_text("Jörg\nann\n", encoding="utf-8")
    headers = {KEY_HEADER: key_fingerprint(sample_key)}
    asked = httpx.Response(200, text=f"{subject_digest(sample_key, 'Jörg').hex()}\n", headers=headers)
    monkeypatch.setattr(caller, "open_client", lambda url, key: answering(lambda request: asked))
    terminal = io.TextIOWrapper(io.BytesIO(), encoding="ascii", errors="replace")
    monkeypatch.setattr(sys, "stdout", terminal)
    with people.open(encoding="utf-8") as subjects:
        caller.do_not_train("scans", key="expunge_x", subjects=subjects, sample_key=sample_key.hex(), left_out=True)
    terminal.flush()
    assert terminal.buffer.getvalue().decode() == "Jörg\n"  # type: ignore[attr-defined]  # of a BytesIO
