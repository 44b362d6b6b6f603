"""The commands `expunge keys`, `expunge signing-keys` and `expunge rotate-sample-key`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape
from rich.table import Table

from expunge.cli.console import DataDir, Tenant, notes, out, print_table
from expunge.errors import StackError
from expunge.stack.folder import Folder, default_folder, has_newer_key

if TYPE_CHECKING:
    from ledger.sample_key import Rotated, Unmatchable

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
    trained versions, and after a new key every version that knows nobody who was erased since.
    """
    from expunge.operator import keys
    from expunge.operator.deployment import find_deployment

    for signed in keys.sign_versions(find_deployment(data_dir), model=name, tenant=tenant):
        line = f"version {signed.number}  {signed.weights_sha256}  {signed.outcome}"
        out.print(line, highlight=False, soft_wrap=True)


def rotate_sample_key(
    key_file: Annotated[
        Path | None,
        typer.Argument(
            help="The file with what EXPUNGE_SAMPLE_KEY is to be: its value and one more key. It is made unless it exists. A stack "
            "with a key of its own needs none.",
            show_default=False,
        ),
    ] = None,
    lost: Annotated[
        bool,
        typer.Option(
            "--lost",
            help="The old key is lost: go on with EXPUNGE_SAMPLE_KEY. What is hashed under the old one is never matched again.",
        ),
    ] = False,
    data_dir: DataDir = None,
) -> None:
    """Rotate the key under which samples and people are hashed. No ID is needed: each hash is hashed on to the new key.

    Stop the workers first, or wait for their jobs. API, workers and commands refuse what needs the key until they have the new one,
    so nothing is matched wrongly. Everything is changed or nothing: after an interruption run it again with the same file.
    """
    from expunge.operator import keys
    from expunge.operator.deployment import find_deployment

    deployment = find_deployment(data_dir)
    folder, own = Folder(data_dir or default_folder()), deployment.key_file
    if lost:
        print_unmatchable(keys.replace_lost_key(deployment))
        return
    if key_file is None:
        if own is None:
            raise typer.BadParameter(
                "Name the file for the new key: EXPUNGE_SAMPLE_KEY is set, and no command can change it."
            )
        if has_newer_key(folder):
            out.print(
                "The key was rotated since the stack was started, and is left as it is. Restart the stack: it has the new key."
            )
            return
    file = key_file or folder.sample_key.with_suffix(".next")
    print_rotated(keys.rotate_sample_key(deployment, file, adopt=own))
    todo = (
        "Restart the stack: it has the new key."
        if own
        else f"Set EXPUNGE_SAMPLE_KEY to the content of {file} for the API, the workers, the beat and commands, and restart them."
    )
    out.print(f"{todo} Back the key up.", markup=False, highlight=False, soft_wrap=True)


def print_unmatchable(left: "Unmatchable") -> None:
    """Print how much is never matched again, and what to do."""
    out.print(
        f"The ledger goes on with this key. Under the lost one stay {left.samples:,} samples, {left.erased:,} of them erased, "
        f"and {left.people:,} people who asked. Register the data sets again. Whom the erased samples belonged to is not "
        "known any more: keep them out of trainings by your own records.",
        highlight=False,
        soft_wrap=True,
    )


def print_rotated(rotated: "Rotated | None") -> None:
    """Print how much was hashed on to the new key, and which models' references could not be."""
    if rotated is None:
        out.print("The ledger was under this key already.")
        return
    out.print(
        f"Hashed {rotated.rows:,} rows and {rotated.files:,} files of references on to the new key.", highlight=False
    )
    if rotated.unreadable:
        names = ", ".join(rotated.unreadable)
        text = f"The reference predictions of {names} cannot be read; prepare them anew."
        notes.print(text, style="yellow", markup=False, soft_wrap=True)


def find_database(data_dir: Path | None) -> str:
    """Find the URL of the deployment's database. Raises StackError."""
    from expunge.operator.deployment import find_deployment

    return find_deployment(data_dir).database_url


def find_folder(data_dir: Path | None) -> Path:
    """Find the folder of private signing keys: EXPUNGE_SIGNING_KEYS, else the running stack's. Raises StackError."""
    from expunge.operator.deployment import read_deployment_settings

    found = read_deployment_settings(data_dir).signing_keys
    if found is None:
        raise StackError("EXPUNGE_SIGNING_KEYS is not set. Name the folder from which the workers read their keys.")
    return found
