"""The command `expunge`."""

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from expunge.cli import auditor, caller, keys, operator, studies
from expunge.cli.console import notes
from expunge.cli.copies import copies
from expunge.cli.subjects import subjects
from expunge.cli.transcend import transcend
from expunge.cli.up import up
from expunge.errors import ExpungeError

app = typer.Typer(
    name="expunge",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    help="""Unlearn samples from trained PyTorch models, and audit the result.

    `expunge demo` shows two requests from submission to report. `expunge up` starts the service on this machine.""",
)


def demo(
    out_folder: Annotated[Path, typer.Option("--out", help="The folder for the two audit reports.")] = Path("reports"),
) -> None:
    """Show two unlearning requests on real handwritten digits, with their reports. Takes about three minutes.

    Trains the models, starts the service, submits a request with LTU and one with IEU, compares the results with retrained
    models, and stops everything. Ctrl-C stops it at any time.
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
        "subjects": subjects,
        "references": operator.references,
        "tune": studies.tune,
        "audit": studies.audit,
        "doctor": operator.doctor,
        "purge": operator.purge,
        "copies": copies,
        "transcend": transcend,
        "restore": operator.restore,
        "unlink": operator.unlink,
        "keys": keys.api_keys,
        "signing-keys": keys.signing_keys,
        "sign": keys.sign,
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
    """Run the command. An expected error prints its message and ends with status 1, without a traceback."""
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # Before torch is imported; see expunge.stack.stack.PASSIVE.
    try:
        app(prog_name="expunge")
    except ExpungeError as error:
        notes.print("[bold red]Error[/bold red]", end=" ")
        notes.print(str(error), markup=False, highlight=False)
        sys.exit(1)
