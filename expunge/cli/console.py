"""Where the commands write: results to the standard output, everything else to the standard error."""

from collections.abc import Iterable, Iterator

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn

out = Console()
notes = Console(stderr=True)


def progress_bar() -> Progress:
    """Make a bar for something that takes a while."""
    return Progress(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f} %"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=notes,
    )


def read_ids(lines: Iterable[str] | None) -> Iterator[str]:
    """Give the IDs of a file's lines, without what surrounds them; empty lines are none."""
    return filter(None, map(str.strip, lines or ()))
