"""The operator's commands. They run code that the operator names, and write to the database: never over HTTP."""

import os
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from expunge.console import notes, out, progress_bar
from expunge.embedded.folder import default_folder
from expunge.sample_ids import read_ids

Reference = Annotated[
    str,
    typer.Argument(metavar="MODULE:FACTORY", help="The workload, e.g. examples.digits:workload.", show_default=False),
]
DataDir = Annotated[
    Path | None,
    typer.Option(
        "--data-dir",
        envvar="EXPUNGE_DATA",
        help="The stack's data folder. Default: .expunge here where there is one, else ~/.local/share/expunge.",
    ),
]
Tenant = Annotated[str, typer.Option(help="Whose it is.")]

keys = typer.Typer(no_args_is_help=True, help="Make, list and revoke API keys.")


def allowed() -> tuple[str, ...]:
    """Read the allow-list of workload modules from the environment, as the worker does."""
    from worker.settings import allow_list

    return allow_list(os.environ.get("EXPUNGE_WORKLOADS") or "examples")


def train(
    workload: Reference,
    out_folder: Annotated[Path, typer.Option("--out", help="The folder to write the weights into.")] = Path("weights"),
    seed: Annotated[int, typer.Option(help="Of the weights' start and of the order of the batches.")] = 0,
    plain: Annotated[
        bool, typer.Option("--plain", help="Without Ready2Unlearn: no preparation for unlearning.")
    ] = False,
    without: Annotated[
        typer.FileText | None,
        typer.Option(help="A file with sample IDs to leave out, one a line; see `expunge do-not-train --left-out`."),
    ] = None,
) -> None:
    """Train a workload's model by its recipe, prepared for unlearning with Ready2Unlearn, and write its weights."""
    from expunge.training import train_workload

    with progress_bar() as bar:
        task = bar.add_task("Training", total=None)
        trained = train_workload(
            workload,
            allowed=allowed(),
            folder=out_folder,
            seed=seed,
            plain=plain,
            without=frozenset(read_ids(without)),
            show=lambda progress: bar.update(
                task, total=progress.total, completed=progress.step, description=f"Training {loss(progress.metrics)}"
            ),
        )
    notes.print(f"Trained in {trained.seconds:.1f} s; SHA-256 {trained.sha256}.")
    out.print(str(trained.path), soft_wrap=True)


def loss(metrics: "dict[str, float] | object") -> str:
    """Show the loss where there is one."""
    return f"(loss {metrics['loss']:.3f})" if isinstance(metrics, dict) and "loss" in metrics else ""


def register(
    name: Annotated[str, typer.Argument(help="The model's name.", show_default=False)],
    workload: Reference,
    weights: Annotated[
        Path | None,
        typer.Option(
            help="The trained weights (.safetensors). Default: the newest that `train` wrote for this workload."
        ),
    ] = None,
    dataset: Annotated[
        str | None, typer.Option(help="The dataset's name. Default: the workload's own name.", show_default=False)
    ] = None,
    policy: Annotated[
        list[str] | None,
        typer.Option(
            "--method", help='A method to try, in order: a name or JSON like \'{"kind": "ltu", "steps": 40}\'.'
        ),
    ] = None,
    tenant: Tenant = "default",
    data_dir: DataDir = None,
) -> None:
    """Make a trained model known to the service: its dataset, its training samples (hashed), its weights, its methods."""
    from expunge.registration import place, register_workload

    view = register_workload(
        place(data_dir or default_folder()),
        name=name,
        reference=workload,
        weights=weights,
        dataset=dataset,
        policy=policy,
        tenant=tenant,
    )
    out.print(f"Registered {view.name!r}, version 1, trained on {view.dataset!r}.", markup=False, highlight=False)
    if view.trained_on_erased:
        notes.print(
            f"{view.trained_on_erased} of its training samples were erased from other models of the dataset. Should it know "
            "them? Else train it without: see `expunge do-not-train`.",
            style="yellow",
        )


def register_version(
    name: Annotated[str, typer.Argument(help="The model's name.", show_default=False)],
    weights: Annotated[
        Path | None,
        typer.Option(
            help="The weights, trained anew. Default: the newest that `train` wrote for the model's workload."
        ),
    ] = None,
    without: Annotated[
        typer.FileText | None,
        typer.Option(
            help="A file with the IDs, one a line, that the training left out of the workload's training set."
        ),
    ] = None,
    tenant: Tenant = "default",
    data_dir: DataDir = None,
) -> None:
    """Make weights that were trained anew the model's next version. `expunge promote` then has it served.

    Where they were trained on exactly what remains after a job that waits, its audit holds the result against them.
    Refused where the training has seen what the model had forgotten: see `expunge do-not-train`.
    """
    from expunge.registration import place, register_trained

    left_out = frozenset(read_ids(without))
    view = register_trained(
        place(data_dir or default_folder()), name=name, weights=weights, without=left_out, tenant=tenant
    )
    out.print(f"Registered version {view.number} of {name!r}; it is not served yet.", markup=False, highlight=False)


@keys.command("create")
def create_key(
    name: Annotated[str, typer.Argument(help="What the key is for; shown in lists, not secret.", show_default=False)],
    scopes: Annotated[
        list[str] | None,
        typer.Option(
            "--scope",
            help="What it may do: requests:write, requests:read, models:write, reports:read, admin. Give it once for each. "
            "Default: all of these but admin.",
        ),
    ] = None,
    tenant: Tenant = "default",
    data_dir: DataDir = None,
) -> None:
    """Make an API key and show it, once: it is stored nowhere in clear."""
    from expunge.tenancy import CALLERS_SCOPES, make_api_key

    secret = make_api_key(database(data_dir), tenant=tenant, name=name, scopes=scopes or CALLERS_SCOPES)
    out.print(secret, soft_wrap=True)


@keys.command("list")
def list_keys(tenant: Tenant = "default", data_dir: DataDir = None) -> None:
    """Show a tenant's API keys, oldest first: prefix, name, scopes, and whether they are good. Never the secrets."""
    from expunge.tenancy import tenant_keys

    table = Table("Prefix", "Name", "Scopes", "Made", "State")
    for key in tenant_keys(database(data_dir), tenant=tenant):
        state = "good" if key.revoked_at is None else f"revoked {key.revoked_at:%Y-%m-%d}"
        table.add_row(key.prefix, escape(key.name), ", ".join(sorted(key.scopes)), f"{key.created_at:%Y-%m-%d}", state)
    out.print(table)


@keys.command("revoke")
def revoke_key(
    prefix: Annotated[
        str, typer.Argument(help="The part between the two first underscores; see `keys list`.", show_default=False)
    ],
    tenant: Tenant = "default",
    data_dir: DataDir = None,
) -> None:
    """Make an API key useless from now on."""
    from expunge.tenancy import stop_key

    stop_key(database(data_dir), tenant=tenant, prefix=prefix)
    out.print(f"Revoked {prefix}.", markup=False, highlight=False)


def database(data_dir: Path | None) -> str:
    """Find the service's database: the environment's, else the running stack's."""
    from expunge.registration import place

    return place(data_dir or default_folder()).database_url
