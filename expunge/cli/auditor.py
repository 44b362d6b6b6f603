"""The auditor's commands: check a signed statement offline, and that the service's log has only grown.

Run them on a machine that the service's operator does not control.
"""

import base64
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import httpx
import typer

from expunge import client
from expunge.cli.caller import open_client
from expunge.cli.console import Url, ask_for_key, out
from expunge.errors import LogNotProven
from unlearning.files import write_atomically
from verifier.checking import format_outcome, verify_files
from verifier.errors import Mismatch, NotProven, unreadable
from verifier.keys import TrustedKey, read_keys
from verifier.log import TreeHead, check_consistency, check_entry, check_leaves, read_log_checkpoint, read_log_proof

NOT_SHOWN = (
    "Not shown: that others are shown the same log (--against compares with what they were shown), that what never reached the log "
    "did not happen, and that the log's times are right."
)
"""The limits of every check of the log."""


def verify(
    statement: Annotated[
        Path, typer.Argument(exists=True, dir_okay=False, help="The signed statement (GET /reports/{id}/statement).")
    ],
    key: Annotated[
        list[Path],
        typer.Option(
            exists=True,
            dir_okay=False,
            help="A public signing key (PEM), or the JSON of GET /keys. May be repeated.",
        ),
    ],
    report: Annotated[
        Path | None, typer.Option(help="The report's JSON. Checks that the statement is about this report.")
    ] = None,
    weights: Annotated[
        Path | None, typer.Option(help="A file of weights. Checks that the statement is about these weights.")
    ] = None,
    sample: Annotated[
        Path | None,
        typer.Option(help="A proof from `expunge prove`. Checks that the sample is among those forgotten."),
    ] = None,
    subject: Annotated[
        Path | None,
        typer.Option(
            help="A proof from `expunge prove --subject`. Checks that the person is among those whose samples were forgotten."
        ),
    ] = None,
    log: Annotated[
        Path | None,
        typer.Option(help="A proof from GET /jobs/{id}/log-entry. Checks that the result is in the log."),
    ] = None,
) -> None:
    """Check a signed statement offline, and print what it proves and what it does not. Status 1 if it is not proven."""
    outcome = verify_files(statement, keys=key, report=report, weights=weights, sample=sample, subject=subject, log=log)
    out.print(format_outcome(outcome), markup=False, highlight=False, soft_wrap=True)
    if outcome.refused:
        raise typer.Exit(1)


def check_log(
    signed_by: Annotated[
        Path,
        typer.Option(exists=True, dir_okay=False, help="A public signing key (PEM), or the JSON of GET /keys."),
    ],
    state: Annotated[
        Path,
        typer.Option(
            help="The file of the last checkpoint seen. The first run creates it; a successful check replaces it."
        ),
    ] = Path("checkpoint.txt"),
    against: Annotated[
        list[Path] | None,
        typer.Option(
            exists=True,
            dir_okay=False,
            help="What somebody else was shown: a checkpoint, or a proof from the log. Checks that it is of the same log. May be "
            "repeated.",
        ),
    ] = None,
    after_restore: Annotated[
        bool,
        typer.Option(
            "--after-restore",
            help="Accept that the log has a new name since the operator restored a backup, and check what that left unchanged.",
        ),
    ] = False,
    whole: Annotated[bool, typer.Option("--whole", help="Read all entries and compute the root from them.")] = False,
    key: Annotated[
        str | None,
        typer.Option(
            "--key",
            envvar="EXPUNGE_API_KEY",
            help="An API key with reports:read, which --whole and --after-restore need: they read the entries.",
            show_default=False,
        ),
    ] = None,
    url: Url = None,
) -> None:
    """Check that the service's log has only grown since the last checkpoint seen. Status 1 if this is not proven."""
    if key is None and (whole or after_restore):
        key = ask_for_key()
    try:
        with open_client(url, key) as http:
            trusted = read_keys(signed_by.read_bytes())
            note = client.send(http, "GET", "/log/checkpoint").content
            newer = read_log_checkpoint(note, keys=trusted)
            lines = [compare_with_state(http, state, newer, trusted, after_restore=after_restore)]
            lines += [compare_with_other(http, path, newer, trusted) for path in against or ()]
            if whole:
                check_leaves(newer, fetch_leaves(http, newer.size))
                lines.append(f"All {newer.size} entries give its root.")
    except NotProven as error:
        raise LogNotProven(f"The log is not proven to be complete: {error} Keep {state} as evidence.") from error
    write_atomically(state, note)  # a part of a checkpoint would be no evidence
    for line in (f"{newer.origin}: {newer.size} entries.", *lines, NOT_SHOWN):
        out.print(line, markup=False, highlight=False, soft_wrap=True)


def compare_with_state(
    http: httpx.Client, state: Path, newer: TreeHead, trusted: Sequence[TrustedKey], *, after_restore: bool
) -> str:
    """Compare with the checkpoint kept in `state`; return the finding as a line. Raises NotProven."""
    if not state.exists():
        return f"No earlier checkpoint to compare with; {state.name} keeps this one."
    # The checkpoint was valid when it was kept. A key revoked since cannot have written into this file.
    then = [replace(key, revoked_at=None) for key in trusted]
    older = read_log_checkpoint(state.read_bytes(), keys=then)
    if after_restore and older.origin != newer.origin:
        return follow_restore(http, state, older, newer)
    prove_growth(http, older, newer)
    return f"The first {older.size} are those of {state.name}."


def follow_restore(http: httpx.Client, state: Path, older: TreeHead, newer: TreeHead) -> str:
    """Compare with a checkpoint from before a restore: the log has to record it, and to keep what the backup had. Raises NotProven.

    The old checkpoint is kept beside `state`, because it proves entries that the restore may have lost.
    """
    leaves = fetch_leaves(http, newer.size)
    check_leaves(newer, leaves)
    recorded = [leaf["before"] for leaf in map(json.loads, leaves) if leaf["kind"] == "restore"]
    kept = next((before["size"] for before in recorded if before["origin"] == older.origin), None)
    if kept is None:
        raise Mismatch(f"The log does not record that it was restored from {older.origin}.")
    if older.size <= kept:
        prove_growth(http, replace(older, origin=newer.origin), newer)
    evidence = state.with_name(f"{state.name}.{older.size}")
    write_atomically(evidence, state.read_bytes())
    found = f"It goes on from {older.origin}, which was restored from a backup of {kept} entries."
    if older.size <= kept:
        return f"{found} The first {older.size} are those of {state.name}, kept as {evidence.name}."
    lost = older.size - kept
    return f"{found} {lost} entries that you were shown are lost; {evidence.name} is the proof that they were there."


def compare_with_other(http: httpx.Client, path: Path, newer: TreeHead, trusted: Sequence[TrustedKey]) -> str:
    """Compare with what somebody else was shown; return the finding as a line. Raises NotProven."""
    shown = path.read_bytes()
    if not shown.lstrip().startswith(b"{"):
        older = read_log_checkpoint(shown, keys=trusted)
        prove_growth(http, older, newer)
        return f"The first {older.size} are those of {path.name}."
    entry = check_entry(read_log_proof(shown), keys=trusted)
    prove_growth(http, entry.checkpoint, newer)
    report = entry.content.get("report")
    about = f", about the report with SHA-256 {report['sha256']}" if isinstance(report, dict) else ""
    return f"Entry {entry.index} is the {entry.kind} of {path.name}, dated {entry.at}{about}."


def prove_growth(http: httpx.Client, older: TreeHead, newer: TreeHead) -> None:
    """Check with the service's proof that the newer log extends the older one. Raises NotProven."""
    path: list[bytes] = []
    if older.origin == newer.origin and older.size <= newer.size:
        sizes = {"first": older.size, "second": newer.size}
        answer = client.fetch_json(http, "GET", "/log/proof/consistency", fields=["path"], params=sizes)
        try:
            path = [bytes.fromhex(step) for step in answer["path"]]
        except (TypeError, ValueError) as error:
            raise unreadable("The service's proof", error) from error
    check_consistency(older, newer, path)


def fetch_leaves(http: httpx.Client, size: int) -> list[bytes]:
    """Fetch the log's first `size` leaves. Raises NotProven for an answer that has none."""
    leaves: list[bytes] = []
    while len(leaves) < size:
        answer = client.fetch_json(http, "GET", "/log/leaves", fields=["leaves"], params={"start": len(leaves)})
        try:
            page = [base64.b64decode(leaf) for leaf in answer["leaves"]]
        except (TypeError, ValueError) as error:
            raise unreadable("The service's page of leaves", error) from error
        if not page:
            break
        leaves += page
    return leaves[:size]
