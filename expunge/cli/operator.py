"""The operator's commands. They run code that the operator names, and write to the database: never over HTTP."""

import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape
from rich.table import Table

from expunge.cli.console import notes, out, progress_bar, read_ids
from expunge.stack.folder import default_folder

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
    from expunge.operator.training import train_workload

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
    from expunge.operator.registration import place, register_workload

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
    from expunge.operator.registration import place, register_trained

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
    from expunge.operator.keys import CALLERS_SCOPES, make_api_key

    secret = make_api_key(database(data_dir), tenant=tenant, name=name, scopes=scopes or CALLERS_SCOPES)
    out.print(secret, soft_wrap=True)


@keys.command("list")
def list_keys(tenant: Tenant = "default", data_dir: DataDir = None) -> None:
    """Show a tenant's API keys, oldest first: prefix, name, scopes, and whether they are good. Never the secrets."""
    from expunge.operator.keys import tenant_keys

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
    from expunge.operator.keys import stop_key

    stop_key(database(data_dir), tenant=tenant, prefix=prefix)
    out.print(f"Revoked {prefix}.", markup=False, highlight=False)


def database(data_dir: Path | None) -> str:
    """Find the service's database: the environment's, else the running stack's."""
    from expunge.operator.registration import place

    return place(data_dir or default_folder()).database_url


if TYPE_CHECKING:
    from unlearning.tuning import Trial


def tune(
    workload: Reference,
    weights: Annotated[Path, typer.Option(help="The trained weights (.safetensors).")],
    method: Annotated[str, typer.Option(help="The method: a name or JSON, as in `register`.")] = "ltu",
    budget: Annotated[int, typer.Option(min=1, help="How many specs to try; the first is the one that is given.")] = 12,
    share: Annotated[float, typer.Option(min=0.001, max=0.9, help="The share of the training set to forget.")] = 0.1,
    oracle: Annotated[
        bool, typer.Option("--oracle", help="Judge by a model retrained without the share: one training more.")
    ] = False,
    seed: Annotated[int, typer.Option(help="Of the split and of what is tried.")] = 0,
) -> None:
    """Try parameters on a share of the training set that need not be forgotten, and print the best as JSON.

    So that `expunge register … --method "$(expunge tune …)"` has them used. Of the scores that it tells less is better. The
    model's test set is not looked at, and no attack of the audit is.
    """
    from expunge.operator.tuning import tune as find

    found = find(
        workload,
        allowed=allowed(),
        weights=weights,
        method=method,
        budget=budget,
        share=share,
        oracle=oracle,
        seed=seed,
        show=show_trial,
    )
    typer.echo(json.dumps(asdict(found.spec)))


def show_trial(trial: "Trial") -> None:
    """One line a trial: its score, of which less is better, its time, and what of it is not the method's default."""

    given, defaults = asdict(trial.spec), asdict(type(trial.spec)())
    changed = ", ".join(f"{name} {_short(value)}" for name, value in given.items() if value != defaults[name])
    notes.print(
        f"score {trial.score:.2f} in {trial.seconds:.1f} s: {changed or 'the defaults'}", markup=False, highlight=False
    )


def _short(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


if TYPE_CHECKING:
    from unlearning.audit.attacks.findings import ReferenceFindings
    from unlearning.audit.attacks.shadows import Cost
    from unlearning.audit.intervals import Interval

NAMES = {"lira": "LiRA", "u_lira": "U-LiRA", "rmia": "RMIA", "rmia_offline": "RMIA, offline"}


def audit(
    workload: Reference,
    original: Annotated[Path, typer.Option(help="The weights before (.safetensors).")],
    unlearned: Annotated[Path, typer.Option(help="The weights after.")],
    forgotten: Annotated[typer.FileText, typer.Option(help="A file with the forgotten sample IDs, one a line.")],
    method: Annotated[
        str, typer.Option(help="The method that made the one from the other: a name or JSON, as in `register`.")
    ] = "ltu",
    earlier: Annotated[
        typer.FileText | None, typer.Option(help="A file with the IDs that were forgotten before, one a line.")
    ] = None,
    shadows: Annotated[int, typer.Option(help="Models to train and unlearn, an even number; 64 or more is best.")] = 64,
    repeats: Annotated[
        int, typer.Option(help="Originals unlearned and models retrained, even; 0 leaves them out.")
    ] = 0,
    folder: Annotated[
        Path,
        typer.Option(help="Where the runs are kept: an interrupted audit goes on from there. Delete it afterwards."),
    ] = Path("references"),
    seed: Annotated[int, typer.Option(help="Of everything that is drawn.")] = 0,
    report: Annotated[Path | None, typer.Option(help="Write the findings to this file as JSON.")] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask whether the time may be spent.")] = False,
) -> None:
    """Attack a model with reference models: LiRA, U-LiRA, RMIA, and with --repeats KLoM and the forgetting score.

    They find members one by one that an ordinary audit misses, and cost dozens of trainings: the time is estimated first.
    """
    from expunge.operator.audit import Files, audit_files
    from unlearning.specs.audit import ReferenceSpec

    files = Files(
        workload=workload,
        allowed=allowed(),
        original=original,
        unlearned=unlearned,
        forgotten=frozenset(read_ids(forgotten)),
        earlier=frozenset(read_ids(earlier)),
        method=method,
        folder=folder,
    )
    with progress_bar() as bar:
        task = bar.add_task("Reference models", total=None)

        def agree(estimate: "Cost") -> bool:
            bar.stop()
            notes.print(estimate_line(estimate))
            agreed = yes or typer.confirm("Go on?")
            bar.start()
            return agreed

        found = audit_files(
            files,
            spec=ReferenceSpec(shadows=shadows, repeats=repeats),
            seed=seed,
            agree=agree,
            show=lambda p: bar.update(task, total=p.total, completed=p.step + p.metrics["run"] * (p.step < p.total)),
        )
    if found is None:
        raise typer.Exit(1)
    out.print(table(found))
    if report is not None:
        report.write_text(json.dumps(found.to_json(), indent=2) + "\n")
        notes.print(f"Written to {report}.", markup=False)


def estimate_line(estimate: "Cost") -> str:
    """What is left to spend, in words."""
    minutes = estimate.seconds / 60
    time = f"{minutes:.0f} min" if minutes < 120 else f"{minutes / 60:.1f} h"
    return f"{estimate.shadows} shadow models and {estimate.repeats} repetitions are left to run: about {time} on this machine."


def table(found: "ReferenceFindings") -> Table:
    """AUC and TPR by attack, for the original and the unlearned model."""
    result = Table("Attack", "AUC, original", "AUC, unlearned", "TPR at 1 % FPR, unlearned")
    for name, attack in found.unlearned.items():
        before = found.original.get(name)
        result.add_row(
            NAMES[name], _shown(before.auc if before else None), _shown(attack.auc), _shown(attack.tpr_at_1_fpr)
        )
    caption = f"{found.compared[0]} forgotten and {found.compared[1]} held-out samples, {found.shadows} shadow models."
    if found.klom is not None and found.forgetting is not None:
        caption += (
            f" KLoM {found.klom.mean:.2f} (retrained against retrained {found.klom.null_mean:.2f}); forgetting score "
            f"{found.forgetting.score:.2f} ({found.forgetting.null:.2f})."
        )
    result.caption = caption
    return result


def _shown(value: "Interval | None") -> str:
    return "–" if value is None else f"{value.value:.3f} [{value.low:.3f}, {value.high:.3f}]"
