"""The command `expunge`."""

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from expunge.cli import auditor as log_command
from expunge.cli import auditor as verify_command
from expunge.cli import caller as caller_commands
from expunge.cli import caller as do_not_train_command
from expunge.cli import maintenance as maintenance_commands
from expunge.cli import maintenance as signing_commands
from expunge.cli import maintenance as unlink_command
from expunge.cli import operator as audit_command
from expunge.cli import operator as operator_commands
from expunge.cli import operator as tune_command
from expunge.cli.console import notes
from expunge.cli.operator import DataDir
from expunge.errors import ExpungeError
from expunge.stack.folder import default_folder

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    help="""Make trained PyTorch models forget people's data, and prove it.

    Start with [bold]expunge demo[/bold] to see one deletion request travel all the way,
    or with [bold]expunge up[/bold] to have the service on this machine.""",
)


@app.command(rich_help_panel="The service")
def up(
    data_dir: DataDir = None,
    host: Annotated[str, typer.Option(help="The address the API listens on.")] = "127.0.0.1",
    port: Annotated[
        int | None, typer.Option(help="The API's port. Default: 8000, or a free one where that is taken.")
    ] = None,
) -> None:
    """Start the whole service on this machine and keep it up: PostgreSQL, a broker, the API, a worker, the beat.

    Ctrl-C stops all of it; the next start finds its data again. With DATABASE_URL and REDIS_URL set, those servers are
    used and none is started. Workloads come from the modules that EXPUNGE_WORKLOADS allows (default: examples).
    """
    from expunge.stack.up import keep_up

    keep_up(data_dir=data_dir or default_folder(), host=host, port=port)


@app.command(rich_help_panel="The service")
def demo(
    out_folder: Annotated[Path, typer.Option("--out", help="The folder for the two audit reports.")] = Path("reports"),
) -> None:
    """Watch two deletion requests travel all the way, on real handwritten digits; about three minutes, nothing left running."""
    from expunge.demo.main import main as run_demo

    run_demo(folder=out_folder)


PANELS: dict[str, dict[str, Callable[..., None] | typer.Typer]] = {
    "The operator": {
        "train": operator_commands.train,
        "register": operator_commands.register,
        "register-version": operator_commands.register_version,
        "tune": tune_command.tune,
        "audit": audit_command.audit,
        "doctor": maintenance_commands.doctor,
        "purge": maintenance_commands.purge,
        "unlink": unlink_command.unlink_person,
        "keys": operator_commands.keys,
        "signing-keys": signing_commands.signing_keys,
    },
    "The caller": {
        "submit": caller_commands.submit,
        "watch": caller_commands.watch,
        "report": caller_commands.report,
        "prove": caller_commands.prove,
        "approve": caller_commands.approve,
        "reject": caller_commands.reject,
        "promote": caller_commands.promote,
        "do-not-train": do_not_train_command.do_not_train,
    },
    "The auditor": {
        "verify": verify_command.verify,
        "check-log": log_command.check_log,
    },
}
"""The other commands, by who gives them, in the order of the help."""

for panel, commands in PANELS.items():
    for name, command in commands.items():
        if isinstance(command, typer.Typer):
            app.add_typer(command, name=name, rich_help_panel=panel)
        else:
            app.command(name, rich_help_panel=panel)(command)


def main() -> None:
    """Run the command; what was foreseen to go wrong is one message and status 1, not a traceback."""
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # Before torch comes in; see expunge.stack.services.
    try:
        app()
    except ExpungeError as error:
        notes.print("[bold red]Error[/bold red]", end=" ")
        notes.print(str(error), markup=False, highlight=False)
        sys.exit(1)
