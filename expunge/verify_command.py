"""`expunge verify`: offline, without the service; the same as the small install `expunge-verify`."""

from pathlib import Path
from typing import Annotated

import typer

from expunge.console import out
from verifier.checking import verify_files
from verifier.outcome import told


def verify(
    statement: Annotated[
        Path, typer.Argument(exists=True, dir_okay=False, help="The signed statement (GET /reports/{id}/statement).")
    ],
    key: Annotated[
        list[Path],
        typer.Option(
            exists=True, dir_okay=False, help="A public key (PEM), or the JSON of GET /keys. May be repeated."
        ),
    ],
    report: Annotated[Path | None, typer.Option(help="The report's JSON: is it the one?")] = None,
    weights: Annotated[Path | None, typer.Option(help="A file of weights: are they the ones?")] = None,
    sample: Annotated[
        Path | None, typer.Option(help="A proof of inclusion (`expunge prove`): is that sample among those forgotten?")
    ] = None,
    log: Annotated[
        Path | None, typer.Option(help="A proof from the log (GET /jobs/{id}/log-entry): was it written down?")
    ] = None,
) -> None:
    """Check a signed statement, offline; says what is proven and what is not. Status 1 where it is not."""
    outcome = verify_files(statement, keys=key, report=report, weights=weights, sample=sample, log=log)
    out.print(told(outcome), markup=False, highlight=False, soft_wrap=True)
    if outcome.refused:
        raise typer.Exit(1)
