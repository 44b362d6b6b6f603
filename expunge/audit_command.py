"""`expunge audit`: attacks with reference models, on request, since they train models by the dozen."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from expunge.console import notes, out, progress_bar
from expunge.operator_commands import Reference, allowed
from expunge.sample_ids import read_ids

if TYPE_CHECKING:
    from unlearning.audit.intervals import Interval
    from unlearning.audit.references.cost import Cost
    from unlearning.audit.references.findings import ReferenceFindings

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
    from expunge.reference_audit import Files, audit_files
    from unlearning.audit.references.spec import ReferenceSpec

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
