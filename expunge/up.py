"""`expunge up`: the stack in the foreground, with what a newcomer needs to know on the screen."""

import dataclasses
from pathlib import Path

from rich.panel import Panel
from rich.table import Table

from expunge.console import notes, out
from expunge.embedded.stack import Stack, from_environment, stack, supervise


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
    key = running.api_key or "…"
    out.print(
        f"  export EXPUNGE_URL={running.url}\n"
        f"  export EXPUNGE_API_KEY={key}\n"
        "  expunge train examples.digits:workload                 # train a model and keep its weights\n"
        "  expunge register digits examples.digits:workload       # make it known to the service\n"
        "  expunge submit --dataset digits digit-0007 --watch     # ask for a sample to be unlearned\n",
        markup=False,
        highlight=False,
        soft_wrap=True,
    )
    out.print("Ctrl-C stops everything.", style="dim")
