"""Where the commands write: results to the standard output, everything else to the standard error."""

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
