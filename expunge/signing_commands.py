"""The operator's commands about signing keys."""

import os
from pathlib import Path
from typing import Annotated

import typer

from expunge.console import notes, out
from expunge.embedded.folder import Folder, default_folder
from expunge.operator_commands import DataDir, database

signing_keys = typer.Typer(
    no_args_is_help=True, help="Make, list and revoke the keys that sign statements and checkpoints."
)


@signing_keys.command("new")
def new_key(data_dir: DataDir = None) -> None:
    """Make a signing key; from now on the worker signs with it. Earlier keys stay good for what they have signed."""
    from expunge.signing import new_signing_key

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
    from expunge.signing import signing_keys as every

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
    from expunge.signing import stop_signing_key

    revoked = stop_signing_key(database(data_dir), folder(data_dir), prefix=key, reason=reason)
    out.print(f"Revoked {revoked.key_id}.", markup=False, highlight=False, soft_wrap=True)


def folder(data_dir: Path | None) -> Path:
    """Find the folder of private keys: the environment's, else the embedded stack's."""
    given = os.environ.get("EXPUNGE_SIGNING_KEYS")
    return Path(given) if given else Folder(data_dir or default_folder()).signing_keys
