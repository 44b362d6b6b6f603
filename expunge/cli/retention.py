"""The commands that show and delete what a deployment keeps, and the one that goes on after a restore."""

from contextlib import nullcontext
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated
from uuid import UUID

import typer
from rich.markup import escape
from rich.table import Column, Table

from expunge.cli.console import DataDir, SampleID, Tenant, ask_for_whom, notes, out, print_table
from expunge.stack.folder import Folder, default_folder

if TYPE_CHECKING:
    from expunge.operator.retention import Purged


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

    deployment = find_deployment(data_dir)
    found = find_copies(deployment, model=name, tenant=tenant)
    purged = delete_copies(deployment, found) if delete else None
    if purged is not None:
        found = find_copies(deployment, model=name, tenant=tenant)
    table = Table("Version", "Knows", Column("Copy", overflow="fold"), "State", "Since")
    for version in found.versions:
        kept = "still stored" if version.purged_at else "served" if version.served else "stored"
        gone = "soft-deleted" if version.weights_path in found.kept.files else "deleted"
        state = kept if version.stored else gone
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
        notes.print(purged.outcome, markup=False, highlight=False)
    elif found.deletable.versions:
        notes.print(f"Expunge may delete the weights of {len(found.deletable.versions)} versions: add --delete.")
    for sentence in found.left:
        notes.print(f"Left to you: {sentence}", markup=False, highlight=False)
    if purged is not None:
        print_failures(purged)


def print_failures(purged: "Purged") -> None:
    """Print what the storage did not let go. Raises typer.Exit if there is any."""
    for sentence in purged.failed:
        notes.print(f"Not deleted: {sentence}", markup=False, highlight=False)
    if purged.failed:
        raise typer.Exit(1)


def sheet(
    report_id: Annotated[UUID, typer.Argument(help="The report's ID.", metavar="REPORT", show_default=False)],
    path: Annotated[Path, typer.Option("--out", help="The page to write.")] = Path("sheet.html"),
    data_dir: DataDir = None,
) -> None:
    """Write the operator's sheet of a report: pictures or texts that the model generates, before and after.

    They may show or name people who asked to be erased, so they are in no report. The worker keeps sheets for as many days as
    EXPUNGE_SHEET_DAYS says; by default it keeps none.
    """
    from expunge.operator.deployment import find_deployment
    from expunge.operator.retention import read_sheet
    from expunge.stack.folder import write_secret
    from report.sheet import render_sheet

    found = read_sheet(find_deployment(data_dir), report_id)
    write_secret(path, render_sheet(found))
    notes.print(f"Wrote {path}, which only you can read. Delete it when you have read it.")


def purge(
    days: Annotated[
        int, typer.Option("--older-than", min=0, help="Days since the next version followed.", metavar="DAYS")
    ] = 30,
    yes: Annotated[bool, typer.Option("--yes", help="Delete. Without it the command only lists the files.")] = False,
    data_dir: DataDir = None,
) -> None:
    """Delete the weights of old versions, which still know samples that later versions have unlearned.

    Keeps the served version, versions that may still be served, and those that an open job needs. The versions' records and
    reports stay. The command does not reach backups.
    """
    from expunge.operator import retention
    from expunge.operator.deployment import find_deployment

    deployment, age = find_deployment(data_dir), timedelta(days=days)
    purgeable = retention.find_purgeable(deployment, older_than=age)
    table = Table("Model", "Version", "Superseded", Column("File", overflow="fold"))
    for version in purgeable.versions:
        table.add_row(escape(version.model), str(version.number), f"{version.since:%Y-%m-%d}", version.weights_path)
    for path in purgeable.unused_files:
        table.add_row("–", "–", "–", f"{path} (no version needs it)")
    if purgeable.versions or purgeable.unused_files:
        print_table(table)
        advice = "Nothing was deleted. Run again with --yes to delete these files."
    else:
        advice = "There is nothing to delete."
    if not yes:
        notes.print(advice)
        return
    deleted = retention.purge(deployment, purgeable, older_than=age)
    notes.print(deleted.outcome, markup=False, highlight=False)
    if deleted.unfinished:
        notes.print(f"Deleted what {deleted.unfinished} broken-off uploads had left.")
    print_failures(deleted)


def unlink(
    dataset: Annotated[str | None, typer.Option(help="The sample's dataset.", show_default=False)] = None,
    sample_id: SampleID = None,
    subject: Annotated[
        bool, typer.Option("--subject", help="Unlink a person instead of a sample. The command asks for whom.")
    ] = False,
    request: Annotated[
        list[UUID] | None, typer.Option(help="The ID of a request for it. May be repeated.", show_default=False)
    ] = None,
    tenant: Tenant = "default",
    data_dir: DataDir = None,
) -> None:
    """Erase for ever what links a sample, or a person, to commitments and to the log. Every root, proof and checkpoint stays valid.

    After this nobody can prove that the sample or the person is in a report, not even the person.
    """
    from expunge.operator import retention
    from expunge.operator.deployment import find_deployment

    if subject == (dataset is not None):
        raise typer.BadParameter("Name the --dataset of a sample, or --subject for a person.")
    deployment = find_deployment(data_dir)
    sample_id, person = ask_for_whom(sample_id, subject=subject)
    leaves, entries = retention.unlink(
        deployment,
        tenant=tenant,
        dataset=dataset or "",
        sample_id=sample_id,
        subject=person,
        requests=request or (),
    )
    out.print(f"Erased the links to {leaves} leaves of commitments and {entries} log entries.", highlight=False)


def restore(
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    data_dir: DataDir = None,
) -> None:
    """Go on with a database that was restored from a backup: give the log a new name, because it lacks what came after the backup.

    Run it once after each restore, before the workers start; for the stack of `expunge up`, while it is stopped. Auditors were
    shown entries that the backup lacks; under its old name the log would fork, and workers refuse to sign it.
    """
    from expunge.operator.deployment import find_deployment, read_deployment_settings
    from expunge.operator.retention import begin_restored_log
    from expunge.stack.stack import run_database

    folder, url = data_dir or default_folder(), read_deployment_settings(data_dir).database_url
    is_stopped = url is None and Folder(folder).postgres.exists()
    database = run_database(folder) if is_stopped else nullcontext(url or find_deployment(data_dir).database_url)
    question = "Was the database restored from a backup? The log gets a new name, and the auditors must know it."
    if not (yes or typer.confirm(question, err=True)):
        raise typer.Exit(1)
    with database as database_url:
        restored = begin_restored_log(database_url)
    for line in (
        f"The log {restored.before.origin} ended with {restored.before.size} entries.",
        f"It goes on as {restored.after.origin}. Tell the auditors: expunge check-log --after-restore",
        f"The ledger's last event is of {restored.ends_at:%Y-%m-%d %H:%M:%S} UTC. Submit again what was received after it."
        if restored.ends_at
        else "The ledger has no events.",
    ):
        out.print(line, markup=False, highlight=False, soft_wrap=True)
