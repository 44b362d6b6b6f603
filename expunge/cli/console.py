"""What commands share: their options and arguments, and where they write.

Results go to standard output, progress and remarks to standard error.
"""

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Self

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from expunge.errors import CannotWrite, explain
from verifier.sample_ids import InvalidSampleID, line_to_id

out = Console()
"""Results: what a caller pipes into another program."""

notes = Console(stderr=True)
"""Everything else: progress, remarks, errors."""


def print_table(table: Table) -> None:
    """Print a table as a result: on a terminal as wide as that is, elsewhere so wide that no cell is wrapped."""
    if out.is_terminal:
        out.print(table)
        return
    wide = Console(file=out.file, width=10_000)
    wide.width = wide.measure(table).maximum
    wide.print(table)


LINE_INTERVAL = 10.0
"""Seconds after which a running task gets a new line where the output is not a terminal."""


@dataclass(slots=True)
class _Task:
    description: str
    total: float | None
    completed: float = 0.0
    detail: str = ""
    printed_at: float = 0.0


class ProgressDisplay:
    """Shows the progress of tasks: as bars on a terminal, elsewhere as lines with the elapsed time.

    A line is printed when a task begins, when its description changes, when it is completed, and after LINE_INTERVAL.
    """

    def __init__(self, console: Console = notes) -> None:
        self._console = console
        self._bars = _make_bars(console) if console.is_terminal else None
        self._tasks: dict[TaskID, _Task] = {}
        self._started = time.monotonic()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.stop()

    def start(self) -> None:
        """Take the terminal."""
        if self._bars is not None:
            self._bars.start()

    def stop(self) -> None:
        """Leave the terminal to other output, or to a question."""
        if self._bars is not None:
            self._bars.stop()

    def add_task(self, description: str, total: float | None = None) -> TaskID:
        """Begin a task. total: what `completed` will be at its end; None if that is not known."""
        if self._bars is not None:
            return self._bars.add_task(description, total=total, detail="")
        task_id = TaskID(len(self._tasks))
        self._tasks[task_id] = _Task(description, total)
        self._print(self._tasks[task_id])
        return task_id

    def update(
        self,
        task_id: TaskID,
        *,
        description: str | None = None,
        detail: str | None = None,
        completed: float | None = None,
        total: float | None = None,
    ) -> None:
        """Set what is given. detail: a figure beside the description, which changes often."""
        if self._bars is not None:
            given = {"description": description, "detail": detail, "completed": completed, "total": total}
            self._bars.update(task_id, **{name: value for name, value in given.items() if value is not None})  # type: ignore[arg-type]  # a field each
            return
        task = self._tasks[task_id]
        was_complete = task.completed == task.total
        changed = description not in (None, task.description)
        task.description = description or task.description
        task.detail = task.detail if detail is None else detail
        task.total = task.total if total is None else total
        task.completed = task.completed if completed is None else completed
        completed_now = task.completed == task.total and not was_complete
        if changed or completed_now or time.monotonic() - task.printed_at >= LINE_INTERVAL:
            self._print(task)

    def _print(self, task: _Task) -> None:
        task.printed_at = time.monotonic()
        elapsed = timedelta(seconds=int(task.printed_at - self._started))
        share = f"{task.completed / task.total:.0%}" if task.total else ""
        line = "  ".join(filter(None, (str(elapsed), task.description, task.detail, share)))
        self._console.print(line, markup=False, highlight=False, soft_wrap=True)


def _make_bars(console: Console) -> Progress:
    return Progress(
        SpinnerColumn(),
        TextColumn("{task.description} {task.fields[detail]}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f} %"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=console,
    )


def read_ids(lines: Iterable[str] | None, *, name: str = "sample ID") -> Iterator[str]:
    """Read one ID a line, without blanks and byte order marks around it; skip empty lines.

    name: what the IDs are called. Raises BadParameter, which names the line by its number.
    """
    number = 0
    try:
        for number, line in enumerate(lines or (), start=1):
            try:
                found = line_to_id(line)
            except InvalidSampleID as fault:
                raise typer.BadParameter(f"The {name} on line {number} {fault}.") from None
            if found is not None:
                yield found
    except UnicodeDecodeError:
        raise typer.BadParameter(f"The list of {name}s is not in UTF-8, after line {number}. Save it so.") from None


def write_result(path: Path, body: bytes) -> None:
    """Write a result to the file that was named for it. Raises CannotWrite."""
    try:
        path.write_bytes(body)
    except OSError as error:
        raise CannotWrite(f"The result could not be written to {path}. {explain(error)}") from error


def has_terminal() -> bool:
    """Return whether somebody can be asked for a secret, also while the standard input is a file."""
    try:
        with open("/dev/tty", "rb"):
            return True
    except OSError:
        return False


def ask_for_key() -> str:
    """Prompt for an API key. Raises BadParameter where nobody can be asked."""
    if not has_terminal():
        raise typer.BadParameter("Give an API key with --key or EXPUNGE_API_KEY.")
    return str(typer.prompt("API key", hide_input=True, err=True))


def ask_for_whom(sample_id: str | None, *, subject: bool) -> tuple[str | None, str | None]:
    """Return the sample ID or the subject that a command is about, and None for the other; prompt for what is not given.

    Raises BadParameter if a sample ID is given and a subject is meant.
    """
    if subject:
        if sample_id is not None:
            raise typer.BadParameter("Name either a sample or --subject.")
        return None, typer.prompt("Subject", err=True)
    return sample_id if sample_id is not None else typer.prompt("Sample ID", err=True), None


Workload = Annotated[
    str,
    typer.Argument(metavar="MODULE:FACTORY", help="The workload, e.g. examples.digits:workload.", show_default=False),
]
DataDir = Annotated[
    Path | None,
    typer.Option(
        "--data-dir",
        envvar="EXPUNGE_DATA",
        help="The stack's data folder. Default: .expunge if the current folder has one, else ~/.local/share/expunge.",
    ),
]
Processes = Annotated[
    str | None,
    typer.Option(
        envvar="EXPUNGE_PROCESSES",
        help="How many processes train together, each on a GPU of its own or on a part of the cores; auto: one for each GPU.",
        show_default="1",
    ),
]
SampleID = Annotated[
    str | None,
    typer.Option(
        "--sample-id",
        help="The sample. Leave it out to be asked: the shell's history keeps options.",
        show_default=False,
    ),
]
Tenant = Annotated[str, typer.Option(help="The tenant that owns it.")]
Url = Annotated[
    str | None,
    typer.Option(
        "--url", envvar="EXPUNGE_URL", help="The API's address. Default: the stack that runs on this machine."
    ),
]
Key = Annotated[
    str,
    typer.Option(
        "--key",
        envvar="EXPUNGE_API_KEY",
        prompt="API key" if has_terminal() else False,
        hide_input=True,
        help="The API key.",
    ),
]
