"""`expunge do-not-train`: which samples the next training may still use, told by whoever has the key that they are hashed under."""

import sys
from typing import Annotated

import typer

from expunge.caller_commands import Key, Url, open_client
from expunge.do_not_train import fetch_digests, may_not_train, may_train
from expunge.embedded.folder import Folder, default_folder, recall
from expunge.sample_ids import read_ids
from ledger.samples import parse_sample_key


def do_not_train(
    dataset: Annotated[str, typer.Argument(help="The dataset.", show_default=False)],
    ids: Annotated[typer.FileText, typer.Option(help="A file with one sample ID a line; - for the standard input.")],
    key: Key,
    sample_key: Annotated[
        str | None,
        typer.Option(
            envvar="EXPUNGE_SAMPLE_KEY",
            help="The service's, 64 hex digits. Default: that of the stack that runs on this machine; else asked for.",
            show_default=False,
        ),
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="Only what this model has forgotten. Default: any model of the dataset.")
    ] = None,
    left_out: Annotated[bool, typer.Option("--left-out", help="Print those that may not be used, instead.")] = False,
    url: Url = None,
) -> None:
    """Print those of the sample IDs that a training may still use: without what was erased, or asked to be."""
    with open_client(url, key) as http:
        listed = fetch_digests(http, "models", model) if model else fetch_digests(http, "datasets", dataset)
    given, hashed_under = read_ids(ids), find_sample_key(sample_key)
    choose = may_not_train if left_out else may_train
    for sample_id in choose(given, dataset=dataset, key=hashed_under, left_out=listed):
        sys.stdout.write(f"{sample_id}\n")


def find_sample_key(given: str | None) -> bytes:
    """The key under which the service hashes sample IDs: the given one, the running stack's, or what is typed in.

    Raises BadParameter.
    """
    kept = Folder(default_folder()).sample_key
    if given is None and recall(default_folder()) and kept.exists():
        given = kept.read_text().strip()
    try:
        return parse_sample_key(given or typer.prompt("Sample key", hide_input=True, err=True))
    except ValueError as error:
        raise typer.BadParameter(f"the sample key {error}") from None
