"""The command `expunge copies`."""

from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Column, Table

from expunge.cli.console import DataDir, Tenant, notes, print_table
from expunge.stack.folder import default_folder


def copies(
    name: Annotated[str, typer.Argument(metavar="MODEL", help="The model.", show_default=False)],
    delete: Annotated[
        bool, typer.Option("--delete", help="Delete what Expunge may delete. Without it the command only lists.")
    ] = False,
    tenant: Tenant = "default",
    data_dir: DataDir = None,
) -> None:
    """List where a model's weights went, and which copies know people who were erased since; delete those that may be deleted.

    With --delete the weights of old versions that know erased people are deleted from the storage, however young they are. The
    beat then deletes them at the connected systems that can. What is left to you is listed at the end.
    """
    from expunge.operator.deployment import find_deployment
    from expunge.operator.retention import delete_copies, find_copies

    deployment = find_deployment(data_dir or default_folder())
    found = find_copies(deployment, model=name, tenant=tenant)
    purged = delete_copies(deployment, found) if delete else None
    if purged is not None:
        found = find_copies(deployment, model=name, tenant=tenant)
    table = Table("Version", "Knows", Column("Copy", overflow="fold"), "State", "Since")
    for version in found.versions:
        kept = "still stored" if version.purged_at else "served" if version.served else "stored"
        state = kept if version.stored else "deleted"
        knows = f"{version.knows} erased samples" if version.knows else "no erased sample"
        since = version.purged_at or version.created_at
        table.add_row(str(version.number), knows, f"storage: {version.weights_path}", state, f"{since:%Y-%m-%d %H:%M}")
        for handed in version.handed:
            place = escape(f"{handed.connector}: {handed.place or 'not confirmed'}")
            table.add_row("", "", place, str(handed.state), f"{handed.since:%Y-%m-%d %H:%M}")
        for fetched in version.fetched:
            who = escape(f"fetched with the key {fetched.key} ({fetched.name})")
            table.add_row("", "", who, f"{fetched.times} times", f"{fetched.last:%Y-%m-%d %H:%M}")
    print_table(table)
    if purged is not None:
        notes.print(f"Deleted {len(purged.files)} files, and verified that they are gone.")
    elif found.deletable.versions:
        notes.print(f"Expunge may delete the weights of {len(found.deletable.versions)} versions: add --delete.")
    for sentence in found.left:
        notes.print(f"Left to you: {sentence}", markup=False, highlight=False)
