"""The command `expunge`."""

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from expunge import (
    audit_command,
    caller_commands,
    log_command,
    maintenance_commands,
    operator_commands,
    signing_commands,
    tune_command,
    unlink_command,
    verify_command,
)
from expunge.console import notes
from expunge.embedded.folder import default_folder
from expunge.errors import ExpungeError

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    help="""Make trained PyTorch models forget people's data, and prove it.

    Start with [bold]expunge demo[/bold] to see one deletion request travel all the way,
    or with [bold]expunge up[/bold] to have the service on this machine.""",
)

DataDir = Annotated[
    Path | None,
    typer.Option(
        "--data-dir",
        envvar="EXPUNGE_DATA",
        help="The stack's data folder. Default: .expunge here where there is one, else ~/.local/share/expunge.",
    ),
]


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
    from expunge.up import keep_up

    keep_up(data_dir=data_dir or default_folder(), host=host, port=port)


@app.command(rich_help_panel="The service")
def demo(
    out_folder: Annotated[Path, typer.Option("--out", help="The folder for the two audit reports.")] = Path("reports"),
) -> None:
    """Watch two deletion requests travel all the way, on real handwritten digits; about three minutes, nothing left running."""
    from expunge.demo.main import main as run_demo

    run_demo(folder=out_folder)


app.command("train", rich_help_panel="The operator")(operator_commands.train)
app.command("doctor", rich_help_panel="The operator")(maintenance_commands.doctor)
app.command("purge", rich_help_panel="The operator")(maintenance_commands.purge)
app.command("register", rich_help_panel="The operator")(operator_commands.register)
app.command("tune", rich_help_panel="The operator")(tune_command.tune)
app.command("audit", rich_help_panel="The operator")(audit_command.audit)
app.command("register-version", rich_help_panel="The operator")(operator_commands.register_version)
app.add_typer(operator_commands.keys, name="keys", rich_help_panel="The operator")
app.add_typer(signing_commands.signing_keys, name="signing-keys", rich_help_panel="The operator")
app.command("unlink", rich_help_panel="The operator")(unlink_command.unlink_person)
app.command("submit", rich_help_panel="The caller")(caller_commands.submit)
app.command("watch", rich_help_panel="The caller")(caller_commands.watch)
app.command("report", rich_help_panel="The caller")(caller_commands.report)
app.command("approve", rich_help_panel="The caller")(caller_commands.approve)
app.command("reject", rich_help_panel="The caller")(caller_commands.reject)
app.command("promote", rich_help_panel="The caller")(caller_commands.promote)
app.command("do-not-train", rich_help_panel="The caller")(caller_commands.do_not_train)
app.command("prove", rich_help_panel="The caller")(caller_commands.prove)
app.command("verify", rich_help_panel="The auditor")(verify_command.verify)
app.command("check-log", rich_help_panel="The auditor")(log_command.check_log)


def main() -> None:
    """Run the command; what was foreseen to go wrong is one message and status 1, not a traceback."""
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # Before torch comes in; see expunge.embedded.services.
    try:
        app()
    except ExpungeError as error:
        notes.print("[bold red]Error[/bold red]", end=" ")
        notes.print(str(error), markup=False, highlight=False)
        sys.exit(1)


if __name__ == "__main__":
    main()
