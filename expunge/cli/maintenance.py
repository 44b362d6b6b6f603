"""The operator's commands for an installation that runs: what is wrong with it, and what need not be kept."""

import os
from datetime import timedelta
from pathlib import Path
from typing import Annotated
from uuid import UUID

import typer
from rich.markup import escape
from rich.table import Column, Table

from expunge.cli.console import notes, out
from expunge.cli.operator import DataDir, Tenant, database
from expunge.operator.registration import opened
from expunge.stack.folder import Folder, default_folder
from ledger.registry.access import ensure_tenant
from ledger.sample_ids import sample_digest
from ledger.transparency.commitments import unlink_sample
from ledger.transparency.log import erase_opening


def doctor(data_dir: DataDir = None) -> None:
    """Tell what is wrong with the installation: servers, schema, keys, storage, weights, code, worker, clock.

    The status is 1 where something is.
    """
    from expunge.operator.doctor import examine, installation

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
    from expunge.operator.purge import look
    from expunge.operator.purge import purge as delete
    from expunge.operator.registration import place

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


signing_keys = typer.Typer(
    no_args_is_help=True, help="Make, list and revoke the keys that sign statements and checkpoints."
)


@signing_keys.command("new")
def new_key(data_dir: DataDir = None) -> None:
    """Make a signing key; from now on the worker signs with it. Earlier keys stay good for what they have signed."""
    from expunge.operator.keys import new_signing_key

    key = new_signing_key(database(data_dir), folder(data_dir))
    notes.print("Made a signing key. Tell its id to whoever is to verify, on another way than this service:")
    out.print(key.key_id, soft_wrap=True, highlight=False)


@signing_keys.command("list")
def list_keys(
    pem: Annotated[
        bool, typer.Option("--pem", help="Only the newest good key, as a PEM file for `expunge verify`.")
    ] = False,
    data_dir: DataDir = None,
) -> None:
    """Show the signing keys, newest first: id, when it was made, and whether it is good."""
    from expunge.operator.keys import signing_keys as every

    keys = every(database(data_dir))
    if pem:
        out.print(next((key.public_key for key in keys if key.revoked_at is None), ""), end="", highlight=False)
        return
    for key in keys:
        revoked = key.revoked_at and f"revoked {key.revoked_at:%Y-%m-%d}: {key.revocation_reason or ''}"
        # Whole ids, because they are there to be compared.
        line = f"{key.key_id}  {key.created_at:%Y-%m-%d}  {revoked or 'good'}"
        out.print(line, markup=False, highlight=False, soft_wrap=True)


@signing_keys.command("revoke")
def revoke_key(
    key: Annotated[
        str, typer.Argument(help="The key's id, or how it begins; see `signing-keys list`.", show_default=False)
    ],
    reason: Annotated[str, typer.Option(help="Why; everybody who verifies reads it.", prompt="Reason")],
    data_dir: DataDir = None,
) -> None:
    """Revoke a signing key, for ever: nothing that it has ever signed counts any more. To replace a good key make a new one."""
    from expunge.operator.keys import stop_signing_key

    revoked = stop_signing_key(database(data_dir), folder(data_dir), prefix=key, reason=reason)
    out.print(f"Revoked {revoked.key_id}.", markup=False, highlight=False, soft_wrap=True)


def folder(data_dir: Path | None) -> Path:
    """Find the folder of private keys: the environment's, else the embedded stack's."""
    given = os.environ.get("EXPUNGE_SIGNING_KEYS")
    return Path(given) if given else Folder(data_dir or default_folder()).signing_keys


def unlink_person(
    dataset: Annotated[str, typer.Option(help="The dataset that the sample belongs to.", show_default=False)],
    sample_id: Annotated[
        str, typer.Option(prompt="Sample ID", help="Asked for, so that it stays out of the shell's history.")
    ],
    request: Annotated[
        list[UUID] | None, typer.Option(help="A request of theirs; may be repeated.", show_default=False)
    ] = None,
    tenant: Tenant = "default",
    data_dir: DataDir = None,
) -> None:
    """Erase for ever what links a person to manifests and to the log. Every root, proof and checkpoint stays good.

    After this nobody, the person included, can be shown to be in a report.
    """
    leaves, entries = erase_links(
        data_dir or default_folder(), dataset, sample_id, tenant=tenant, requests=request or []
    )
    out.print(f"Erased the links to {leaves} leaves of manifests and {entries} entries of the log.", highlight=False)


def erase_links(data_dir: Path, dataset: str, sample_id: str, *, tenant: str, requests: list[UUID]) -> tuple[int, int]:
    """Erase them; gives how many leaves and how many entries they were."""
    from expunge.operator.registration import place

    where = place(data_dir)
    digest = sample_digest(where.sample_key, dataset, sample_id)
    with opened(where.database_url) as sessions, sessions.begin() as session:
        owner = ensure_tenant(session, tenant)
        leaves = unlink_sample(session, tenant_id=owner, digest=digest)
        return leaves, sum(erase_opening(session, tenant_id=owner, subject_id=one) for one in requests)
