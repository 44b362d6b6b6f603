from io import StringIO
from pathlib import Path

import pytest
import typer
from rich.console import Console
from rich.table import Table
from typer.testing import CliRunner

from expunge.cli import console
from expunge.cli.console import ProgressDisplay, print_table, read_ids, write_result
from expunge.cli.main import app
from expunge.errors import CannotWrite


class Clock:
    now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(console, "time", clock)
    return clock


def test_without_a_terminal_no_cell_of_a_table_is_wrapped(capsys: pytest.CaptureFixture[str]) -> None:
    table = Table("Check", "Found")
    table.add_row("weights", "a long sentence " * 30)
    print_table(table)
    rows = [line for line in capsys.readouterr().out.splitlines() if "sentence" in line]
    assert len(rows) == 1
    assert ("a long sentence " * 30).strip() in rows[0]


def test_without_a_terminal_progress_is_lines_with_the_elapsed_time(clock: Clock) -> None:
    written = StringIO()
    with ProgressDisplay(Console(file=written)) as display:
        task = display.add_task("training", total=10)
        clock.now += 3
        display.update(task, completed=3, detail="(loss 0.500)")
        clock.now += 8
        display.update(task, completed=6)
        clock.now += 60
        display.update(task, completed=10)
        display.update(task, description="measuring")
    assert written.getvalue().splitlines() == [
        "0:00:00  training  0%",
        "0:00:11  training  (loss 0.500)  60%",
        "0:01:11  training  (loss 0.500)  100%",
        "0:01:11  measuring  (loss 0.500)  100%",
    ]


def test_a_task_of_unknown_length_gets_a_line_from_time_to_time(clock: Clock) -> None:
    written = StringIO()
    display = ProgressDisplay(Console(file=written))
    task = display.add_task("starting")
    for _ in range(25):
        clock.now += 1
        display.update(task)
    assert written.getvalue().splitlines() == ["0:00:00  starting", "0:00:10  starting", "0:00:20  starting"]


def test_on_a_terminal_progress_is_bars() -> None:
    written = StringIO()
    with ProgressDisplay(Console(file=written, force_terminal=True, width=80)) as display:
        display.update(display.add_task("training"), completed=5, total=10, detail="(loss 0.500)")
    assert "50 %" in written.getvalue()


def test_ids_are_read_without_surrounding_blanks_and_empty_lines() -> None:
    assert list(read_ids([" a\n", "\n", "b"])) == ["a", "b"]
    assert list(read_ids(None)) == []
    assert list(read_ids(["\ufeffa\t\r\n", "b\u00a0\n"])) == ["a", "b"]


def test_a_list_that_is_not_in_utf_8_is_refused_without_its_content(tmp_path: Path) -> None:
    path = tmp_path / "ids.txt"
    path.write_bytes("Müller\n".encode("latin-1"))
    for command in (
        ["submit", "--dataset", "d", "--key", "expunge_x", "--url", "http://127.0.0.1:9", "--file", str(path)],
        ["train", "examples.digits:workload", "--without-subjects", str(path)],
    ):
        ended = CliRunner().invoke(app, command, env={"COLUMNS": "200"})
        assert ended.exit_code == 2
        assert "is not in UTF-8" in " ".join(ended.output.split())
        assert "ller" not in ended.output


def test_a_result_that_cannot_be_written_names_its_file(tmp_path: Path) -> None:
    with pytest.raises(CannotWrite, match=r"nowhere/report.html. .*No such file or directory. Name another place"):
        write_result(tmp_path / "nowhere/report.html", b"")


def test_a_line_that_is_no_id_is_named_by_its_number() -> None:
    with pytest.raises(typer.BadParameter, match="line 3") as raised:
        list(read_ids(["a", "", "person\u0007"]))
    assert "person" not in str(raised.value)
