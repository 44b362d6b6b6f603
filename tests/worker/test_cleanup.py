"""Operators' sheets: written only where the operator asks for them, never at the cost of a publication, and deleted in time."""

import os
import time
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from connectors.storage import LocalFolder, StorageError
from unlearning.audit.generation import Sheet
from worker.attempt import AttemptResult
from worker.cleanup import SHEETS, delete_expired_sheets
from worker.publish import write_sheet

ROWS = {"forgotten": np.zeros((2, 1, 8, 8), np.float32), "numbers": np.zeros((2, 5), np.float32)}


def result(sheet: Sheet | None) -> AttemptResult:
    return cast(AttemptResult, SimpleNamespace(findings=SimpleNamespace(sheet=sheet)))


def settings(folder: Path, days: float) -> Any:
    return SimpleNamespace(files=LocalFolder(folder), sheet_days=days)


def files(folder: Path) -> list[str]:
    return [file.name for file in LocalFolder(folder).list_files(SHEETS)]


def test_a_sheet_is_written_only_where_the_operator_asks_for_it(tmp_path: Path) -> None:
    shown = Sheet(bounds=(-1.0, 1.0), rows=ROWS)
    write_sheet(result(shown), report_id="r-1", settings=settings(tmp_path, 0))
    write_sheet(result(None), report_id="r-1", settings=settings(tmp_path, 3))
    assert files(tmp_path) == []

    write_sheet(result(shown), report_id="r-1", settings=settings(tmp_path, 3))
    assert [name.rsplit("/", 1)[0] for name in files(tmp_path)] == ["sheets/r-1"]


def test_a_sheet_that_cannot_be_written_does_not_undo_what_is_published(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / SHEETS).write_text("a file in the way")
    write_sheet(result(Sheet(bounds=(-1.0, 1.0), rows=ROWS)), report_id="r-1", settings=settings(tmp_path, 3))
    assert "report r-1 has no sheet" in caplog.text


def test_a_sheet_that_the_storage_does_not_let_go_keeps_no_other_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for report in ("a", "b", "c"):
        write_sheet(result(Sheet(bounds=(-1.0, 1.0), rows=ROWS)), report_id=report, settings=settings(tmp_path, 3))
    delete = LocalFolder.delete

    def hold(self: LocalFolder, name: str) -> int:
        if name.startswith(f"{SHEETS}/a/"):
            raise StorageError("is under a hold")
        return delete(self, name)

    monkeypatch.setattr(LocalFolder, "delete", hold)
    with pytest.raises(StorageError, match="hold"):
        delete_expired_sheets(LocalFolder(tmp_path), older_than=timedelta(0))
    assert [name.rsplit("/", 1)[0] for name in files(tmp_path)] == [f"{SHEETS}/a"]


def test_a_sheet_is_deleted_after_its_days_and_at_once_where_none_are_kept(tmp_path: Path) -> None:
    for report in ("old", "new"):
        write_sheet(result(Sheet(bounds=(-1.0, 1.0), rows=ROWS)), report_id=report, settings=settings(tmp_path, 3))
    (old,) = (tmp_path / SHEETS / "old").iterdir()
    before = time.time() - timedelta(days=4).total_seconds()
    os.utime(old, (before, before))
    (tmp_path / "weights.safetensors").write_bytes(b"weights")

    delete_expired_sheets(LocalFolder(tmp_path), older_than=timedelta(days=3))
    assert [name.rsplit("/", 1)[0] for name in files(tmp_path)] == ["sheets/new"]
    delete_expired_sheets(LocalFolder(tmp_path), older_than=timedelta(0))
    assert files(tmp_path) == []
    assert (tmp_path / "weights.safetensors").exists()
