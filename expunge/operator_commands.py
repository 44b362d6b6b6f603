"""The operator's commands. They run code that the operator names, and write to the database: never over HTTP."""

import os
from pathlib import Path
from typing import Annotated

import typer

from expunge.console import notes, out, progress_bar
from expunge.embedded.folder import default_folder

Reference = Annotated[
    str,
    typer.Argument(metavar="MODULE:FACTORY", help="The workload, e.g. examples.digits:workload.", show_default=False),
]
DataDir = Annotated[
    Path | None,
    typer.Option(
        "--data-dir",
        envvar="EXPUNGE_DATA",
        help="The running stack's data folder. Default: .expunge here where there is one, else ~/.local/share/expunge.",
    ),
]
Tenant = Annotated[str, typer.Option(help="Whose it is.")]

keys = typer.Typer(no_args_is_help=True, help="Make API keys.")


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


@keys.command("create")
def create_key(
    name: Annotated[str, typer.Argument(help="What the key is for; shown in lists, not secret.", show_default=False)],
    tenant: Tenant = "default",
    data_dir: DataDir = None,
) -> None:
    """Make an API key and show it, once: it is stored nowhere in clear."""
    from expunge.registration import place
    from expunge.tenancy import make_key

    out.print(make_key(place(data_dir or default_folder()).database_url, tenant=tenant, name=name), soft_wrap=True)
