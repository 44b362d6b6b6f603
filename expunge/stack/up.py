"""`expunge up`: the stack in the foreground, with what a newcomer needs to know on the screen."""

import dataclasses
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

from rich.panel import Panel
from rich.table import Table

from expunge.cli.console import notes, out
from expunge.stack.stack import Stack, from_environment, stack, supervise
from worker.settings import allow_list


def keep_up(*, data_dir: Path, host: str, port: int | None) -> None:
    """Start the stack, show how to reach it, and stay until Ctrl-C or SIGTERM. Raises StackError."""
    options = dataclasses.replace(from_environment(data_dir=data_dir, port=port), host=host)
    try:
        with (
            notes.status("Starting …") as status,
            stack(options, say=lambda name: status.update(f"Starting {name} …")) as running,
        ):
            status.stop()
            show(running)
            supervise(running, say=lambda text: notes.print(text, style="yellow"))
    except KeyboardInterrupt:
        notes.print("Stopped. The data is kept; start again with the same command.")


def show(running: Stack) -> None:
    """Print where everything is; the API key once, when it was made just now."""
    table = Table.grid(padding=(0, 2))
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    table.add_row("API", running.url)
    table.add_row("Try it out", f"{running.url}/docs")
    table.add_row("Metrics", f"{running.url}/metrics")
    table.add_row("Data", str(running.folder.root))
    table.add_row("Logs", str(running.folder.logs))
    if running.api_key is not None:
        table.add_row("API key", f"[bold green]{running.api_key}[/bold green]")
        table.add_row("", "[dim]shown this once and stored nowhere: keep it[/dim]")
    out.print(Panel(table, title="Expunge is up", title_align="left", expand=False))
    for step in first_steps(running):
        out.print(f"  {step}", markup=False, highlight=False, soft_wrap=True)
    out.print()
    out.print("Ctrl-C stops everything.", style="dim")


def first_steps(running: Stack) -> Iterator[str]:
    """What to type in a second terminal, from a shell that knows nothing yet."""
    if shutil.which("expunge") is None:
        yield f". {sys.prefix}/bin/activate"
    yield f"export EXPUNGE_URL={running.url}"
    yield f"export EXPUNGE_API_KEY={running.api_key or '…'}"
    workloads = running.settings.workloads
    if "examples" in allow_list(workloads):
        yield "expunge train examples.digits:workload                 # train a model and keep its weights"
        yield "expunge register digits examples.digits:workload       # make it known to the service"
        yield "expunge submit --dataset digits digit-0007 --watch     # ask for a sample to be unlearned"
        return
    yield f"export EXPUNGE_WORKLOADS={workloads}"
    yield "expunge register NAME MODULE:FACTORY --weights FILE    # make a trained model known to the service"
    yield "expunge submit --dataset NAME SAMPLE_ID --watch        # ask for a sample to be unlearned"
