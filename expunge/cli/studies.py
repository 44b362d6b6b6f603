"""The operator's studies: search a method's parameters, and attack an unlearned model. They work on files, not on a deployment."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from expunge.cli.console import ProgressDisplay, Workload, notes, print_table, read_ids, write_result
from expunge.cli.operator import allowed_workloads

if TYPE_CHECKING:
    from unlearning.audit.attacks.findings import ReferenceFindings
    from unlearning.audit.attacks.study import Cost
    from unlearning.audit.intervals import Interval
    from unlearning.tuning import Trial

ATTACK_NAMES = {"lira": "LiRA", "u_lira": "U-LiRA", "rmia": "RMIA", "rmia_offline": "RMIA, offline"}


def tune(
    workload: Workload,
    weights: Annotated[Path, typer.Option(help="The trained weights (.safetensors).")],
    method: Annotated[str, typer.Option(help="The method: a name or JSON, as in `expunge register`.")] = "ltu",
    budget: Annotated[int, typer.Option(min=1, help="How many settings to try. The first is the given one.")] = 12,
    share: Annotated[float, typer.Option(min=0.001, max=0.9, help="The share of the training set to forget.")] = 0.1,
    retrained: Annotated[
        bool, typer.Option("--retrained", help="Compare with a model retrained without the share. Costs one training.")
    ] = False,
    seed: Annotated[int, typer.Option(help="Seed of the split and of the settings.")] = 0,
) -> None:
    """Search a method's parameters on a share of the training set, and print the best as JSON.

    The share is chosen at random; nobody need have asked to be forgotten. Lower scores are better. The search uses neither the
    test set nor the audit's attacks. Use the result as in `expunge register … --method "$(expunge tune …)"`.
    """
    from expunge.operator import studies

    found = studies.tune(
        workload,
        allowed=allowed_workloads(),
        weights=weights,
        method=method,
        budget=budget,
        share=share,
        retrained=retrained,
        seed=seed,
        show=show_trial,
    )
    typer.echo(json.dumps(asdict(found.spec)))


def show_trial(trial: "Trial") -> None:
    """Print a trial's score, its seconds and the parameters that differ from the method's defaults."""
    given, defaults = asdict(trial.spec), asdict(type(trial.spec)())
    changed = ", ".join(f"{name} {_format(value)}" for name, value in given.items() if value != defaults[name])
    notes.print(
        f"score {trial.score:.2f} in {trial.seconds:.1f} s: {changed or 'the defaults'}", markup=False, highlight=False
    )


def audit(
    workload: Workload,
    original: Annotated[Path, typer.Option(help="The weights before (.safetensors).")],
    unlearned: Annotated[Path, typer.Option(help="The weights after.")],
    forgotten: Annotated[
        typer.FileText, typer.Option(encoding="utf-8", help="A file of the forgotten sample IDs, one a line.")
    ],
    method: Annotated[str, typer.Option(help="The method that was used: a name or JSON, as in `register`.")] = "ltu",
    earlier: Annotated[
        typer.FileText | None,
        typer.Option(encoding="utf-8", help="A file of the sample IDs that were forgotten before, one a line."),
    ] = None,
    shadows: Annotated[
        int, typer.Option(help="How many models to train and unlearn: an even number, best 64 or more.")
    ] = 64,
    repeats: Annotated[
        int, typer.Option(help="How many originals to unlearn and models to retrain: an even number. 0: none.")
    ] = 0,
    folder: Annotated[
        Path,
        typer.Option(
            help="Where finished runs are kept. An interrupted audit continues from there. Delete it afterwards."
        ),
    ] = Path("references"),
    seed: Annotated[int, typer.Option(help="Seed of everything that is drawn.")] = 0,
    report: Annotated[Path | None, typer.Option(help="Write the findings to this file as JSON.")] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Run without asking.")] = False,
) -> None:
    """Attack an unlearned model with reference models: LiRA, U-LiRA, RMIA; with --repeats also KLoM and the forgetting score.

    These attacks can recognise single samples that a job's audit misses. They cost dozens of trainings; the command first
    estimates the time and asks. Status 1 if you decline.
    """
    from expunge.operator.studies import Files, audit_files
    from unlearning.specs.audit import ReferenceSpec
    from unlearning.steps import Progress

    files = Files(
        workload=workload,
        allowed=allowed_workloads(),
        original=original,
        unlearned=unlearned,
        forgotten=frozenset(read_ids(forgotten)),
        earlier=frozenset(read_ids(earlier)),
        method=method,
        folder=folder,
    )
    with ProgressDisplay() as display:
        task = display.add_task("Reference models")

        def agree(estimate: "Cost") -> bool:
            display.stop()
            notes.print(format_estimate(estimate))
            agreed = yes or typer.confirm("Run them?")
            display.start()
            return agreed

        def show(progress: Progress) -> None:
            completed = progress.step + progress.metrics["run"] * (progress.step < progress.total)
            display.update(task, total=progress.total, completed=completed)

        found = audit_files(
            files, spec=ReferenceSpec(shadows=shadows, repeats=repeats), seed=seed, agree=agree, show=show
        )
    if found is None:
        raise typer.Exit(1)
    print_table(findings_table(found))
    if report is not None:
        write_result(report, f"{json.dumps(asdict(found), indent=2)}\n".encode())
        notes.print(f"Written to {report}.", markup=False)


def format_estimate(estimate: "Cost") -> str:
    """Format how many runs are missing and how long they take."""
    minutes = estimate.seconds / 60
    time = f"{minutes:.0f} min" if minutes < 120 else f"{minutes / 60:.1f} h"
    return f"{estimate.shadows} shadow models and {estimate.repeats} repetitions to run: about {time} on this machine."


def findings_table(found: "ReferenceFindings") -> Table:
    """Make a table of AUC and TPR by attack, for the original and the unlearned model."""
    result = Table("Attack", "AUC, original", "AUC, unlearned", "TPR at 1 % FPR, unlearned")
    for name, attack in found.unlearned.items():
        before = found.original.get(name)
        auc = before.auc if before else None
        result.add_row(ATTACK_NAMES[name], *map(_format_interval, (auc, attack.auc, attack.tpr_at_1_fpr)))
    each = {name: _format_interval(auc) for name, auc in found.each_shadow.items()}
    result.add_row(f"{ATTACK_NAMES['lira']}, every shadow model", each["lira"], "–", "–")
    result.add_row(f"{ATTACK_NAMES['u_lira']}, every shadow model", "–", each["u_lira"], "–")
    forgotten, held_out = found.samples["forget"], found.samples["held_out"]
    caption = f"{forgotten} forgotten and {held_out} held-out samples, {found.shadows} shadow models."
    if found.klom is not None and found.forgetting is not None:
        caption += (
            f" KLoM {found.klom.mean:.2f} (retrained against retrained {found.klom.null_mean:.2f}); forgetting score "
            f"{found.forgetting.score:.2f} ({found.forgetting.null:.2f})."
        )
    result.caption = caption
    return result


def _format(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _format_interval(value: "Interval | None") -> str:
    return "–" if value is None else f"{value.value:.3f} ({value.ends('.3f')})"
