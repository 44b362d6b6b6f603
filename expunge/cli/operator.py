"""The operator's commands. They run code that the operator names and write to the database; none goes over HTTP."""

import os
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape
from rich.progress import TaskID
from rich.table import Table

from expunge.cli.console import DataDir, Processes, ProgressDisplay, Tenant, Workload, notes, out, print_table, read_ids
from expunge.errors import CannotPrepare, CannotTrain
from report.formatting import duration, plural
from unlearning.specs.references import ReferencePlan

if TYPE_CHECKING:
    from expunge.operator.references import Prepared
    from unlearning.steps import Progress


def allowed_workloads() -> tuple[str, ...]:
    """Read the allow-list of workload modules from the environment, as the worker does."""
    from worker.settings import allow_list

    return allow_list(os.environ.get("EXPUNGE_WORKLOADS") or "examples")


ModelName = Annotated[str, typer.Argument(help="The model's name.", show_default=False)]
NoDryRun = Annotated[
    bool, typer.Option("--no-dry-run", help="Do not make a dry run of a job first. What will not work then fails late.")
]
AcceptUntrained = Annotated[
    bool, typer.Option("--accept-untrained", help="Accept weights that are no better than guessing.")
]

BY_DEFAULT = ReferencePlan()
"""How reference models are trained unless the operator says otherwise."""

REFERENCE_MODELS = "Reference models"
"""The panel of the help with the options that make a `ReferencePlan`."""

Folds = Annotated[
    int,
    typer.Option(
        min=2,
        max=100,
        help="Parts of the training set. Each reference model leaves out one.",
        rich_help_panel=REFERENCE_MODELS,
    ),
]
Rounds = Annotated[
    int,
    typer.Option(
        min=1,
        max=100,
        help="Rounds of training for the predictions that methods aim at.",
        rich_help_panel=REFERENCE_MODELS,
    ),
]
AuditRounds = Annotated[
    int,
    typer.Option(min=1, max=100, help="Further rounds, for the audit only.", rich_help_panel=REFERENCE_MODELS),
]
ReferenceEpochs = Annotated[
    float,
    typer.Option(
        min=0.01,
        max=1.0,
        help="Epochs of a reference model's training, as a share of the model's.",
        rich_help_panel=REFERENCE_MODELS,
    ),
]
NearCopies = Annotated[
    float,
    typer.Option(
        min=0.0,
        max=0.5,
        help="Treat samples as one subject's that are nearer to one another than this share of what is usual. 0: compare none.",
        rich_help_panel=REFERENCE_MODELS,
    ),
]
WholeClasses = Annotated[
    list[int] | None,
    typer.Option(
        "--whole-class",
        min=0,
        help="A class that may be forgotten as a whole, by its number. One more model is trained without it. Repeatable.",
        show_default=False,
        callback=lambda given: sorted(set(given or ())),
        rich_help_panel=REFERENCE_MODELS,
    ),
]


def train(
    workload: Workload,
    out_folder: Annotated[Path, typer.Option("--out", help="The folder for the weights.")] = Path("weights"),
    seed: Annotated[int, typer.Option(help="Seed of the initial weights and of the order of the batches.")] = 0,
    plain: Annotated[bool, typer.Option("--plain", help="Train without Ready2Unlearn's preparation.")] = False,
    without: Annotated[
        typer.FileText | None,
        typer.Option(
            encoding="utf-8",
            help="A file of sample IDs to leave out, one a line, e.g. from `expunge do-not-train --left-out`. "
            "- reads standard input.",
        ),
    ] = None,
    without_subjects: Annotated[
        typer.FileText | None,
        typer.Option(
            encoding="utf-8",
            help="A file of people to leave out with all of their samples, one a line. - reads standard input.",
        ),
    ] = None,
    references: Annotated[
        bool,
        typer.Option(
            "--references",
            help="Train the reference models too, about three further trainings. `expunge references --prepared` uses them.",
        ),
    ] = False,
    folds: Folds = BY_DEFAULT.folds,
    rounds: Rounds = BY_DEFAULT.rounds,
    audit_rounds: AuditRounds = BY_DEFAULT.audit_rounds,
    epochs: ReferenceEpochs = BY_DEFAULT.epochs,
    near_copies: NearCopies = BY_DEFAULT.near_copies,
    whole_classes: WholeClasses = None,
    processes: Processes = None,
) -> None:
    """Train a workload's model and write its weights: by its own trainer, or by its recipe, prepared by Ready2Unlearn.

    A training that was interrupted continues from its last training checkpoint, if it is begun again in the same folder.
    """
    from expunge.operator.deployment import is_same_storage

    if (storage := os.environ.get("EXPUNGE_STORAGE")) and is_same_storage(storage, str(out_folder)):
        raise typer.BadParameter(
            "it is EXPUNGE_STORAGE, from which `expunge purge` deletes the weights that no version needs, such as those of a "
            "training until they are registered; name another folder",
            param_hint="--out",
        )
    plan = ReferencePlan(
        folds=folds,
        rounds=rounds,
        audit_rounds=audit_rounds,
        epochs=epochs,
        near_copies=near_copies,
        classes=tuple(whole_classes or ()),
    )
    if not references and plan != BY_DEFAULT:
        raise typer.BadParameter("the options of reference models need --references", param_hint="--references")

    from expunge.operator.training import train_workload  # only now: it imports torch
    from expunge.operator.workloads import plan_processes
    from unlearning.cached_runs import PHASE
    from unlearning.steps import Progress

    with ProgressDisplay() as display:
        task = display.add_task("Training")
        further = display.add_task("Training reference models") if references else None

        def show(progress: Progress) -> None:
            if progress.phase == PHASE and further is not None:
                show_references(display, further, progress)
                return
            loss = f"(loss {progress.metrics['loss']:.3f})" if "loss" in progress.metrics else ""
            display.update(task, total=progress.total, completed=progress.step, detail=loss)

        leave_out = frozenset(read_ids(without))
        people = frozenset(read_ids(without_subjects, name="subject"))
        trained = train_workload(
            workload,
            allowed=allowed_workloads(),
            folder=out_folder,
            seed=seed,
            plain=plain,
            without=leave_out,
            without_subjects=people,
            references=plan if references else None,
            launch=plan_processes(processes, CannotTrain),
            show=show,
        )
    if leave_out and not people:
        notes.print(
            f"Left out {trained.left_out} samples; {len(leave_out) - trained.left_out} of the IDs are not in the training set."
        )
    elif people:
        notes.print(f"Left out {trained.left_out} samples.")
    notes.print(f"Trained in {trained.seconds:.1f} s; SHA-256 {trained.sha256}.")
    out.print(str(trained.path), soft_wrap=True)


def register(
    name: ModelName,
    workload: Workload,
    weights: Annotated[
        Path | None,
        typer.Option(
            help="The trained weights (.safetensors). Default: the newest that `expunge train` wrote for the workload."
        ),
    ] = None,
    dataset: Annotated[
        str | None, typer.Option(help="The dataset's name. Default: the workload's name.", show_default=False)
    ] = None,
    policy: Annotated[
        list[str] | None,
        typer.Option(
            "--method",
            help='A method of the policy: a name, or JSON like \'{"kind": "ltu", "steps": 40}\'. Repeat it in the order to '
            "try. Default: ieu, retrain; with reference predictions matching, ieu, ltu, retrain.",
        ),
    ] = None,
    approve_utility_drop: Annotated[
        float | None,
        typer.Option(
            min=0,
            max=100,
            help="A version that lost more points of merit (accuracy for a classifier) than this, beyond what less data explains, "
            "awaits an approval.",
            show_default="2",
        ),
    ] = None,
    no_dry_run: NoDryRun = False,
    accept_untrained: AcceptUntrained = False,
    mlflow: Annotated[
        str | None,
        typer.Option(
            help="Take the weights of this version in MLflow, as models:/NAME/NUMBER, by the connector in EXPUNGE_CONNECTORS.",
            show_default=False,
        ),
    ] = None,
    tenant: Tenant = "default",
    data_dir: DataDir = None,
) -> None:
    """Register a trained model with the service: its dataset, training samples (hashed), weights and policy.

    A dry run first takes a few samples through every step of a job. What will not work is listed, and nothing is registered.
    """
    from expunge.operator.deployment import find_deployment

    if mlflow is not None and weights is not None:
        raise typer.BadParameter("give --weights or --mlflow, not both", param_hint="--mlflow")
    deployment = find_deployment(data_dir)

    from expunge.operator.registration import fetch_from_mlflow, register_workload  # only now: it imports torch

    with ExitStack() as stack:
        fetched = None if mlflow is None else stack.enter_context(fetch_from_mlflow(mlflow, model=name, tenant=tenant))
        view = register_workload(
            deployment,
            name=name,
            reference=workload,
            weights=weights if fetched is None else fetched.path,
            dataset=dataset,
            policy=policy,
            approve_utility_drop=approve_utility_drop,
            dry_run=not no_dry_run,
            accept_untrained=accept_untrained,
            tenant=tenant,
            tell=print_note,
        )
        if fetched is not None:
            fetched.claim()
    trained_on = plural(view.training_samples, "sample")
    out.print(
        f"Registered {view.name!r}, version 1, trained on {trained_on} of {view.dataset!r}.",
        markup=False,
        highlight=False,
    )
    if view.trained_on_erased:
        notes.print(
            f"{view.trained_on_erased} of its training samples were erased from other models of the dataset. If it should not "
            "know them, train it without them; see `expunge do-not-train`.",
            style="yellow",
        )


def register_version(
    name: ModelName,
    weights: Annotated[
        Path | None,
        typer.Option(
            help="The retrained weights (.safetensors). Default: the newest that `expunge train` wrote for the workload."
        ),
    ] = None,
    without: Annotated[
        typer.FileText | None,
        typer.Option(
            encoding="utf-8",
            help="A file of the sample IDs that the training left out, one a line. - reads standard input.",
        ),
    ] = None,
    without_subjects: Annotated[
        typer.FileText | None,
        typer.Option(
            encoding="utf-8",
            help="A file of the people whose samples the training left out, one a line. - reads standard input.",
        ),
    ] = None,
    accept_untrained: AcceptUntrained = False,
    tenant: Tenant = "default",
    data_dir: DataDir = None,
) -> None:
    """Register retrained weights as a model's next version. `expunge promote` makes it the served version.

    If the weights were trained on exactly what remains after a waiting job, the job's audit compares its result with them.
    The command refuses weights that were trained on samples that the model has unlearned; see `expunge do-not-train`.
    """
    from expunge.operator.deployment import find_deployment

    deployment = find_deployment(data_dir)

    from expunge.operator.registration import register_new_version  # only now: it imports torch

    view = register_new_version(
        deployment,
        name=name,
        weights=weights,
        without=frozenset(read_ids(without)),
        without_subjects=frozenset(read_ids(without_subjects, name="subject")),
        accept_untrained=accept_untrained,
        tenant=tenant,
    )
    out.print(f"Registered version {view.number} of {name!r}. It is not served yet.", markup=False, highlight=False)


def policy(
    name: Annotated[str, typer.Argument(metavar="MODEL", help="The model's name.", show_default=False)],
    methods: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="METHOD",
            help='The methods in the order to try: names, or JSON like \'{"kind": "ltu", "steps": 40}\'. Without any, nothing is '
            "changed.",
            show_default=False,
        ),
    ] = None,
    no_dry_run: NoDryRun = False,
    tenant: Tenant = "default",
    data_dir: DataDir = None,
) -> None:
    """Print which methods a model tries, in order, or set them: for jobs that are opened or retried from now on.

    A dry run first takes a few samples through every step of a job with these methods. What will not work is listed, and nothing is
    changed. The model's timeline records the change.
    """
    from expunge.operator.deployment import find_deployment

    deployment = find_deployment(data_dir)

    from expunge.operator.registration import change_policy, read_policy  # only now: it imports torch
    from unlearning.specs import method_text

    if methods:
        tried = change_policy(
            deployment, name=name, policy=methods, dry_run=not no_dry_run, tenant=tenant, tell=print_note
        )
    else:
        tried = read_policy(deployment, name=name, tenant=tenant)
    for method in tried:
        out.print(method_text(method), markup=False, highlight=False, soft_wrap=True)


def print_note(note: str) -> None:
    """Print what an operator should know: of what works less well than it could, or of what is waited for."""
    notes.print(note, style="yellow", markup=False, highlight=False)


def references(
    name: ModelName,
    folds: Folds = BY_DEFAULT.folds,
    rounds: Rounds = BY_DEFAULT.rounds,
    audit_rounds: AuditRounds = BY_DEFAULT.audit_rounds,
    epochs: ReferenceEpochs = BY_DEFAULT.epochs,
    near_copies: NearCopies = BY_DEFAULT.near_copies,
    whole_classes: WholeClasses = None,
    seed: Annotated[int, typer.Option(help="Seed of the folds and of the trainings.")] = 0,
    prepared: Annotated[
        Path | None,
        typer.Option(help="The folder of `expunge train --references`, e.g. weights/references.", show_default=False),
    ] = None,
    processes: Processes = None,
    yes: Annotated[bool, typer.Option("--yes", help="Train without asking.")] = False,
    tenant: Tenant = "default",
    data_dir: DataDir = None,
) -> None:
    """Prepare a model's reference predictions: for each training sample, the predictions of models that did not see it.

    Methods aim at them, and with them an audit can decide on a few samples. They cost some trainings, once, before any request. An
    interrupted preparation continues. The reference models are not kept.
    """
    from expunge.operator.deployment import find_deployment

    deployment = find_deployment(data_dir)

    from expunge.operator.references import prepare_model  # only now: it imports torch
    from expunge.operator.workloads import plan_processes
    from unlearning.training.references import PreparationCost

    plan = ReferencePlan(
        folds=folds,
        rounds=rounds,
        audit_rounds=audit_rounds,
        epochs=epochs,
        near_copies=near_copies,
        classes=tuple(whole_classes or ()),
    )

    display = ProgressDisplay()

    def agree(cost: PreparationCost) -> bool:
        notes.print(
            f"{cost.trainings} models to train: about {duration(cost.seconds)} on this machine. The whole preparation costs "
            f"{cost.plain_trainings:.1f} plain trainings of the model.",
            highlight=False,
        )
        agreed = yes or typer.confirm("Train them?", default=True, err=True)
        if agreed:
            display.start()
        return agreed

    task = display.add_task("Training reference models", total=plan.trainings)

    try:
        made = prepare_model(
            deployment,
            name=name,
            plan=plan,
            seed=seed,
            tenant=tenant,
            prepared=prepared,
            launch=plan_processes(processes, CannotPrepare),
            agree=agree,
            show=lambda progress: show_references(display, task, progress),
            tell=print_note,
        )
    finally:
        display.stop()
    if made is None:
        raise typer.Exit(1)
    print_prepared(made, name)


def print_prepared(made: "Prepared", name: str) -> None:
    """Print what was registered for the model `name`, and if audits cannot decide by it, why."""
    from unlearning.audit.reference_test import LEAST_HELD_OUT

    out.print(
        f"Registered reference predictions of {made.samples} samples for {name!r}. Its policy now begins with matching.",
        markup=False,
        highlight=False,
    )
    if not made.decide:
        notes.print(
            f"Audits cannot decide by them: half of the held-out samples are for the audit, and the reference test needs "
            f"{LEAST_HELD_OUT} of these. Enlarge the held-out set and prepare them again.",
            highlight=False,
        )


def show_references(display: ProgressDisplay, task: TaskID, progress: "Progress") -> None:
    """Show how many reference models are trained."""
    done = progress.step + (progress.metrics["run"] if progress.step < progress.total else 0.0)
    display.update(task, total=progress.total, completed=done, detail=f"({int(done)} of {progress.total} done)")


def doctor(data_dir: DataDir = None) -> None:
    """Check servers, schema, keys, storage, weights, worker and clock, and make a dry run of every model. Status 1 if one fails."""
    from expunge.operator.deployment import read_deployment_settings

    settings = read_deployment_settings(data_dir)

    from expunge.operator.doctor import examine  # only now: it imports torch

    table = Table("Check", "", "Found")
    results = list(examine(settings))
    for result in results:
        mark = "[green]ok[/green]" if result.ok else "[bold red]wrong[/bold red]"
        table.add_row(result.check, mark, escape(result.text))
    print_table(table)
    if not all(result.ok for result in results):
        raise typer.Exit(1)
