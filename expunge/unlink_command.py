"""Erasing what links a person to what is kept for good: a sample to its leaves in manifests, a request to its entry in the log."""

from pathlib import Path
from typing import Annotated
from uuid import UUID

import typer

from expunge.console import out
from expunge.database import opened
from expunge.embedded.folder import default_folder
from expunge.operator_commands import DataDir, Tenant
from ledger.access import ensure_tenant
from ledger.log_reading import erase_opening
from ledger.manifest import unlink
from ledger.samples import sample_digest


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
    from expunge.registration import place

    where = place(data_dir)
    digest = sample_digest(where.sample_key, dataset, sample_id)
    with opened(where.database_url) as sessions, sessions.begin() as session:
        owner = ensure_tenant(session, tenant)
        leaves = unlink(session, tenant_id=owner, digest=digest)
        return leaves, sum(erase_opening(session, tenant_id=owner, subject_id=one) for one in requests)
