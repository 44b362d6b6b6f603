from pathlib import Path
from typing import Any

import pytest
import typer

from expunge.cli.caller import find_sample_key, format_end
from expunge.stack.folder import lock_folder, sample_key, write_stack_settings
from tests.expunge.stack.test_folder import SETTINGS

JOB: Any = {"id": "j", "state": "completed", "reason": None, "detail": None, "verdict": None, "method": {"kind": "ieu"}}


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"verdict": "inconclusive"}, "Job j completed: inconclusive, by ieu."),
        (
            {"state": "failed", "reason": "disk_full", "detail": "The disk is full."},
            "Job j failed: disk_full. The disk is full.",
        ),
        ({"state": "cancelled", "reason": "cancelled_by_caller"}, "Job j cancelled: cancelled_by_caller."),
    ],
)
def test_a_jobs_end_is_one_line(changes: dict[str, str], line: str) -> None:
    assert format_end(JOB | changes) == line


def test_the_sample_key_is_the_given_one_else_the_running_stacks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with lock_folder(tmp_path / ".expunge") as folder:
        write_stack_settings(folder, SETTINGS)
        made = sample_key(folder)
        assert find_sample_key(None).hex() == made
        assert find_sample_key("cd" * 32) == b"\xcd" * 32


def test_without_a_running_stack_the_command_asks_for_the_sample_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".expunge").mkdir()
    monkeypatch.setattr(typer, "prompt", lambda *_, **__: "ab" * 32)
    assert find_sample_key(None) == b"\xab" * 32


@pytest.mark.parametrize("wrong", ["xyz", "ab"])
def test_a_malformed_sample_key_is_refused(wrong: str) -> None:
    with pytest.raises(typer.BadParameter, match="64 hex digits"):
        find_sample_key(wrong)
