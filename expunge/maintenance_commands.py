"""The operator's commands for an installation that runs: what is wrong with it, and what need not be kept."""

from datetime import timedelta
from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Column, Table

from expunge.console import notes, out
from expunge.embedded.folder import default_folder
from expunge.operator_commands import DataDir


def doctor(data_dir: DataDir = None) -> None:
    """Tell what is wrong with the installation: servers, schema, keys, storage, weights, code, worker, clock.

    The status is 1 where something is.
    """
    from expunge.doctor import examine, installation

    table = Table("Check", "", "Found")
    sick = False
    for finding in examine(installation(data_dir or default_folder())):
        sick = sick or not finding.fine
        table.add_row(
            finding.check, "[green]ok[/green]" if finding.fine else "[bold red]wrong[/bold red]", escape(finding.text)
        )
    out.print(table)
    if sick:
        raise typer.Exit(1)


def purge(
    days: Annotated[
        int, typer.Option("--older-than", min=0, help="Days since another version followed.", metavar="DAYS")
    ] = 30,
    yes: Annotated[bool, typer.Option("--yes", help="Delete. Without it only what would be deleted is shown.")] = False,
    data_dir: DataDir = None,
) -> None:
    """Delete the weights of versions that nobody serves and no open job needs: they still know whom later versions have forgotten.

    The versions' rows and reports stay. Backups are yours to purge.
    """
    from expunge.purge import look
    from expunge.purge import purge as delete
    from expunge.registration import place

    where, age = place(data_dir or default_folder()), timedelta(days=days)
    going = look(where, older_than=age)
    table = Table("Model", "Version", "Superseded", Column("File", overflow="fold"))
    for version in going.versions:
        table.add_row(escape(version.model), str(version.number), f"{version.since:%Y-%m-%d}", version.weights_path)
    for path in going.litter:
        table.add_row("–", "–", "–", f"{path.name} (no version needs it)")
    out.print(table)
    if not yes:
        notes.print("Nothing was deleted: this is what --yes would delete.")
        return
    deleted = delete(where, going, older_than=age)
    notes.print(f"Deleted {len(deleted)} files.")
