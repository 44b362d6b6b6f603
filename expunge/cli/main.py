"""The command `expunge`, with its two that start the service: `up` and `demo`."""

import os
import shlex
import shutil
import sys
from collections.abc import Callable, Iterator
from io import TextIOWrapper
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.panel import Panel
from rich.table import Table

from expunge.cli import auditor, caller, keys, operator, retention, studies
from expunge.cli.console import DataDir, ProgressDisplay, notes, out
from expunge.cli.subjects import subjects
from expunge.cli.transcend import transcend
from expunge.errors import ExpungeError, explain
from expunge.stack.folder import default_folder

if TYPE_CHECKING:
    from expunge.stack.stack import Stack

app = typer.Typer(
    name="expunge",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    help="""Unlearn samples from trained PyTorch models, and audit the result.

    `expunge demo` shows two requests from submission to report. `expunge up` starts the service on this machine.""",
)


def up(
    data_dir: DataDir = None,
    host: Annotated[str, typer.Option(help="The address that the API listens on.")] = "127.0.0.1",
    port: Annotated[
        int | None, typer.Option(help="The API's port. Default: 8000, or a free one if it is taken.")
    ] = None,
) -> None:
    """Start the whole service on this machine: PostgreSQL, a message broker, the API, a worker and the beat.

    Ctrl-C stops everything. The data stays in the data folder; the next start uses it again.

    If DATABASE_URL or REDIS_URL is set, that server is used and none is started. Weights go to EXPUNGE_STORAGE if it is set, a
    folder or a bucket. EXPUNGE_SAMPLE_KEY and EXPUNGE_SIGNING_KEYS are used in place of the data folder's own keys. Workloads may
    come from the modules in EXPUNGE_WORKLOADS (default: examples).
    """
    from expunge.stack.stack import options_from_environment, run_stack, supervise

    options = options_from_environment(data_dir=data_dir or default_folder(), host=host, port=port)
    display = ProgressDisplay()
    task = display.add_task("Starting")
    try:
        with (
            display,
            run_stack(options, on_step=lambda part: display.update(task, description=f"Starting {part}")) as running,
        ):
            display.update(task, description="Started", completed=1, total=1)
            display.stop()
            show(running)
            supervise(running, on_restart=lambda text: notes.print(text, style="yellow"))
    except KeyboardInterrupt:
        notes.print("Stopped. The data is kept; start again with the same command.")


def show(running: "Stack") -> None:
    """Print the addresses and folders, the API key if it is new, and the first commands to type."""
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
        table.add_row("", "[dim]shown only now; keep it[/dim]")
    out.print(Panel(table, title="Expunge is up", title_align="left", expand=False))
    for step in first_steps(running):
        out.print(f"  {step}", markup=False, highlight=False, soft_wrap=True)
    out.print()
    out.print("Ctrl-C stops everything.", style="dim")


def first_steps(running: "Stack") -> Iterator[str]:
    """Yield the commands to type in a second terminal."""
    from worker.settings import allow_list

    if shutil.which("expunge") is None:
        yield f". {sys.prefix}/bin/activate"
    yield f"export EXPUNGE_URL={running.url}"
    if running.api_key is None:
        yield "expunge keys create NAME                               # a new API key, if you have not kept the first one"
    yield f"export EXPUNGE_API_KEY={running.api_key or 'KEY'}"
    if running.folder.root.resolve() != default_folder().resolve():
        yield f"export EXPUNGE_DATA={shlex.quote(str(running.folder.root.resolve()))}"
    workloads = running.settings.workloads
    if "examples" in allow_list(workloads):
        yield "expunge train examples.digits:workload                 # train a model and keep its weights"
        yield "expunge register digits examples.digits:workload       # register it with the service"
        yield "expunge submit --dataset digits digit-0007 --watch     # request the unlearning of a sample"
        return
    yield f"export EXPUNGE_WORKLOADS={workloads}"
    yield "expunge register NAME MODULE:FACTORY --weights FILE    # register a trained model with the service"
    yield "expunge submit --dataset NAME SAMPLE_ID --watch        # request the unlearning of a sample"


def demo(
    out_folder: Annotated[Path, typer.Option("--out", help="The folder for the two audit reports.")] = Path("reports"),
) -> None:
    """Show two unlearning requests on real handwritten digits, with their reports. Takes about three minutes.

    Trains the models, starts the service, submits a request with IEU and one under the model's policy, compares the results
    with retrained models, and stops everything. Ctrl-C stops it at any time.
    """
    from expunge.demo import main as demonstration

    demonstration.main(folder=out_folder)


COMMANDS: dict[str, dict[str, Callable[..., None] | typer.Typer]] = {
    "Service": {
        "up": up,
        "demo": demo,
    },
    "Operator": {
        "train": operator.train,
        "register": operator.register,
        "register-version": operator.register_version,
        "policy": operator.policy,
        "subjects": subjects,
        "references": operator.references,
        "tune": studies.tune,
        "audit": studies.audit,
        "doctor": operator.doctor,
        "sheet": retention.sheet,
        "purge": retention.purge,
        "copies": retention.copies,
        "transcend": transcend,
        "restore": retention.restore,
        "unlink": retention.unlink,
        "keys": keys.api_keys,
        "signing-keys": keys.signing_keys,
        "sign": keys.sign,
        "rotate-sample-key": keys.rotate_sample_key,
    },
    "Caller": {
        "submit": caller.submit,
        "watch": caller.watch,
        "report": caller.report,
        "card": caller.card,
        "prove": caller.prove,
        "approve": caller.approve,
        "reject": caller.reject,
        "promote": caller.promote,
        "do-not-train": caller.do_not_train,
    },
    "Auditor": {
        "verify": auditor.verify,
        "check-log": auditor.check_log,
    },
}
"""The commands by who uses them, in the order of the help."""

for panel, commands in COMMANDS.items():
    for name, command in commands.items():
        if isinstance(command, typer.Typer):
            app.add_typer(command, name=name, rich_help_panel=panel)
        else:
            app.command(name, rich_help_panel=panel)(command)


def main() -> None:
    """Run the command. An expected error, or one of the operating system, prints its message and ends with status 1.

    Any other one is ours, and has its traceback.
    """
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # A letter that the terminal does not have must not end the command.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # Before torch is imported; see expunge.stack.stack.PASSIVE.
    try:
        app(prog_name="expunge")
    except (ExpungeError, OSError) as error:
        notes.print("[bold red]Error[/bold red]", end=" ")
        message = explain(error) if isinstance(error, OSError) else str(error)
        notes.print(message, markup=False, highlight=False, soft_wrap=True)
        sys.exit(1)
