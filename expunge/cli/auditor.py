"""`expunge check-log`: has the log only grown since the last time? To be run from somewhere that the service's operator is not."""

import base64
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import httpx
import typer

from expunge import client
from expunge.cli.caller import Key, Url, open_client
from expunge.cli.console import out
from expunge.errors import LogNotProven
from verifier.checking import told, verify_files
from verifier.errors import NotProven
from verifier.keys import TrustedKey, read_keys
from verifier.log import Checkpoint, check_consistency, check_entry, check_leaves, read_checkpoint, read_log_proof

NOT_SHOWN = (
    "Not shown: that others are shown the same log (--against compares with what they were shown), that what never reached the log "
    "did not happen, and that its times are right."
)
"""True of every check, so always told."""


def check_log(
    key: Key,
    signed_by: Annotated[
        Path, typer.Option(exists=True, dir_okay=False, help="A public signing key (PEM), or the JSON of GET /keys.")
    ],
    state: Annotated[
        Path, typer.Option(help="The last checkpoint seen; made at the first time, replaced where all is well.")
    ] = Path("checkpoint.txt"),
    against: Annotated[
        list[Path] | None,
        typer.Option(
            exists=True,
            dir_okay=False,
            help="What somebody else was shown: a checkpoint, or a proof from the log. Is it of the same log? May be repeated.",
        ),
    ] = None,
    whole: Annotated[
        bool, typer.Option("--whole", help="Read every leaf too, and compute the root from them.")
    ] = False,
    url: Url = None,
) -> None:
    """Check that the log has only grown since the checkpoint kept here, and keep the newest. Status 1 where it has not."""
    try:
        with open_client(url, key) as http:
            trusted = read_keys(signed_by.read_bytes())
            note = client.send(http, "GET", "/log/checkpoint").content
            newer = read_checkpoint(note, keys=trusted)
            told = [compare_kept(http, state, newer, trusted)]
            told += [compare_other(http, path, newer, trusted) for path in against or ()]
            if whole:
                check_leaves(newer, fetch_leaves(http, newer.size))
                told.append(f"All {newer.size} leaves give its root.")
    except NotProven as error:
        raise LogNotProven(f"The log is not proven to be whole: {error} Keep {state} as evidence.") from error
    state.write_bytes(note)
    for line in (f"{newer.origin}: {newer.size} entries.", *told, NOT_SHOWN):
        out.print(line, markup=False, highlight=False, soft_wrap=True)


def compare_kept(http: httpx.Client, state: Path, newer: Checkpoint, trusted: Sequence[TrustedKey]) -> str:
    """Compare with the checkpoint that is kept; says what was found. Raises NotProven."""
    if not state.exists():
        return "There is nothing to compare with yet."
    # It was good when it was kept, and no thief of a key that was revoked since can write into this file.
    then = [replace(key, revoked_at=None) for key in trusted]
    older = read_checkpoint(state.read_bytes(), keys=then)
    prove_growth(http, older, newer)
    return f"The first {older.size} are those of the last time."


def compare_other(http: httpx.Client, path: Path, newer: Checkpoint, trusted: Sequence[TrustedKey]) -> str:
    """Compare with what somebody else was shown; says what was found. Raises NotProven."""
    shown = path.read_bytes()
    if not shown.lstrip().startswith(b"{"):
        older = read_checkpoint(shown, keys=trusted)
        prove_growth(http, older, newer)
        return f"The first {older.size} are those of {path.name}."
    entry = check_entry(read_log_proof(shown), keys=trusted)
    prove_growth(http, entry.checkpoint, newer)
    report = entry.content.get("report")
    about = f", about the report with SHA-256 {report['sha256']}" if isinstance(report, dict) else ""
    return f"Entry {entry.index} is the {entry.kind} of {path.name}, dated {entry.at}{about}."


def prove_growth(http: httpx.Client, older: Checkpoint, newer: Checkpoint) -> None:
    """Have the service prove that the log has only grown from one checkpoint to the other. Raises NotProven."""
    path: list[bytes] = []
    if older.origin == newer.origin and older.size <= newer.size:
        sizes = {"first": older.size, "second": newer.size}
        answer = client.content(client.send(http, "GET", "/log/proof/consistency", params=sizes))
        path = [bytes.fromhex(step) for step in answer["path"]]
    check_consistency(older, newer, path)


def fetch_leaves(http: httpx.Client, size: int) -> list[bytes]:
    """Fetch the log's first `size` leaves."""
    leaves: list[bytes] = []
    while len(leaves) < size:
        page = client.content(client.send(http, "GET", "/log/leaves", params={"start": len(leaves)}))["leaves"]
        if not page:
            break
        leaves += map(base64.b64decode, page)
    return leaves[:size]


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
