"""The commands `expunge keys` and `expunge signing-keys`."""

import os
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from expunge.cli.console import DataDir, Tenant, notes, out, print_table
from expunge.stack.folder import Folder, default_folder

api_keys = typer.Typer(no_args_is_help=True, help="Create, list and revoke API keys.")
signing_keys = typer.Typer(
    no_args_is_help=True, help="Create, list and revoke the keys that sign statements and log checkpoints."
)


@api_keys.command("create")
def create_api_key(
    name: Annotated[str, typer.Argument(help="What the key is for. Shown in lists.", show_default=False)],
    scopes: Annotated[
        list[str] | None,
        typer.Option(
            "--scope",
            help="A scope of the key: requests:write, requests:read, models:write, reports:read, weights:read or admin. May "
            "be repeated. Default: all but weights:read and admin.",
        ),
    ] = None,
    tenant: Tenant = "default",
    data_dir: DataDir = None,
) -> None:
    """Create an API key and print it once. Only its hash is stored."""
    from expunge.operator import keys

    secret = keys.create_api_key(
        find_database(data_dir), tenant=tenant, name=name, scopes=scopes or keys.DEFAULT_SCOPES
    )
    out.print(secret, soft_wrap=True)


@api_keys.command("list")
def list_api_keys(tenant: Tenant = "default", data_dir: DataDir = None) -> None:
    """List a tenant's API keys, oldest first: prefix, name, scopes, date, state. Never the secrets."""
    from expunge.operator import keys

    table = Table("Prefix", "Name", "Scopes", "Created", "State")
    for key in keys.list_api_keys(find_database(data_dir), tenant=tenant):
        state = "good" if key.revoked_at is None else f"revoked {key.revoked_at:%Y-%m-%d}"
        table.add_row(key.prefix, escape(key.name), ", ".join(sorted(key.scopes)), f"{key.created_at:%Y-%m-%d}", state)
    print_table(table)


@api_keys.command("revoke")
def revoke_api_key(
    prefix: Annotated[
        str, typer.Argument(help="The part between the first two underscores; see `keys list`.", show_default=False)
    ],
    tenant: Tenant = "default",
    data_dir: DataDir = None,
) -> None:
    """Revoke an API key. Calls with it are refused from now on."""
    from expunge.operator import keys

    keys.revoke_api_key(find_database(data_dir), tenant=tenant, prefix=prefix)
    out.print(f"Revoked {prefix}.", markup=False, highlight=False)


@signing_keys.command("new")
def create_signing_key(data_dir: DataDir = None) -> None:
    """Create a signing key. The worker signs with it from now on. Earlier keys stay valid for what they signed."""
    from expunge.operator import keys

    key = keys.create_signing_key(find_database(data_dir), find_folder(data_dir))
    notes.print("Created a signing key. Send its ID to the auditors by another way than this service:")
    out.print(key.key_id, soft_wrap=True, highlight=False)


@signing_keys.command("list")
def list_signing_keys(
    pem: Annotated[
        bool, typer.Option("--pem", help="Print only the newest valid key, as a PEM file for `expunge verify`.")
    ] = False,
    data_dir: DataDir = None,
) -> None:
    """List the signing keys, newest first: ID, date, state."""
    from expunge.operator import keys

    listed = keys.list_signing_keys(find_database(data_dir))
    if pem:
        out.print(next((key.public_key for key in listed if key.revoked_at is None), ""), end="", highlight=False)
        return
    for key in listed:
        revoked = key.revoked_at and f"revoked {key.revoked_at:%Y-%m-%d}: {key.revocation_reason or ''}"
        # Whole IDs: auditors compare them.
        line = f"{key.key_id}  {key.created_at:%Y-%m-%d}  {revoked or 'good'}"
        out.print(line, markup=False, highlight=False, soft_wrap=True)


@signing_keys.command("revoke")
def revoke_signing_key(
    key: Annotated[
        str, typer.Argument(help="The key's ID or its first characters; see `signing-keys list`.", show_default=False)
    ],
    reason: Annotated[str, typer.Option(help="Why. Everybody who verifies reads it.", prompt="Reason")],
    data_dir: DataDir = None,
) -> None:
    """Revoke a stolen signing key for ever. All its signatures become invalid. To replace a good key, create a new one."""
    from expunge.operator import keys

    revoked = keys.revoke_signing_key(find_database(data_dir), find_folder(data_dir), prefix=key, reason=reason)
    out.print(f"Revoked {revoked.key_id}.", markup=False, highlight=False, soft_wrap=True)


def sign(
    name: Annotated[str, typer.Argument(metavar="MODEL", help="The model.", show_default=False)],
    tenant: Tenant = "default",
    data_dir: DataDir = None,
) -> None:
    """Sign the weights of a model's versions with your own key (EXPUNGE_MODEL_SIGNING_KEY), for other tools.

    The worker signs what it publishes with the same key. This command signs what it did not make, or made before it had the key:
    trained versions, and all versions after a new key.
    """
    from expunge.operator.deployment import find_deployment
    from expunge.operator.signing import sign_versions

    for signed in sign_versions(find_deployment(data_dir or default_folder()), model=name, tenant=tenant):
        done = "signed" if signed.fresh else "has a signature of this key"
        out.print(f"version {signed.number}  {signed.weights_sha256}  {done}", highlight=False, soft_wrap=True)


def find_database(data_dir: Path | None) -> str:
    """Find the URL of the deployment's database. Raises StackError."""
    from expunge.operator.deployment import find_deployment

    return find_deployment(data_dir or default_folder()).database_url


def find_folder(data_dir: Path | None) -> Path:
    """Find the folder of private signing keys: EXPUNGE_SIGNING_KEYS, else the data folder's."""
    given = os.environ.get("EXPUNGE_SIGNING_KEYS")
    return Path(given) if given else Folder(data_dir or default_folder()).signing_keys
