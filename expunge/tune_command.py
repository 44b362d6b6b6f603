"""`expunge tune`: find a method's parameters for a workload, to be registered with it."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from expunge.console import notes
from expunge.operator_commands import Reference, allowed

if TYPE_CHECKING:
    from unlearning.search import Trial


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
    from expunge.tuning import tune as find
    from unlearning.specs import to_json

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
    typer.echo(json.dumps(to_json(found.spec)))


def show_trial(trial: "Trial") -> None:
    """One line a trial: its score, of which less is better, its time, and what of it is not the method's default."""
    from unlearning.specs import to_json

    given, defaults = to_json(trial.spec), to_json(type(trial.spec)())
    changed = ", ".join(f"{name} {_short(value)}" for name, value in given.items() if value != defaults[name])
    notes.print(
        f"score {trial.score:.2f} in {trial.seconds:.1f} s: {changed or 'the defaults'}", markup=False, highlight=False
    )


def _short(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
