"""`expunge check-log`: has the log only grown since the last time? To be run from somewhere that the service's operator is not."""

import base64
from pathlib import Path
from typing import Annotated

import httpx
import typer

from expunge import client
from expunge.caller_commands import Key, Url, open_client
from expunge.console import out
from expunge.errors import LogNotProven
from verifier.checkpoint import Checkpoint, check_consistency, read_checkpoint
from verifier.errors import NotProven
from verifier.keys import TrustedKey, read_keys
from verifier.log import check_leaves


def check_log(
    key: Key,
    signed_by: Annotated[
        Path, typer.Option(exists=True, dir_okay=False, help="A public signing key (PEM), or the JSON of GET /keys.")
    ],
    state: Annotated[
        Path, typer.Option(help="The last checkpoint seen; made at the first time, replaced where all is well.")
    ] = Path("checkpoint.txt"),
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
            told = compare(http, state, newer, trusted)
            if whole:
                check_leaves(newer, fetch_leaves(http, newer.size))
    except NotProven as error:
        raise LogNotProven(f"The log is not proven to be whole: {error} Keep {state} as evidence.") from error
    state.write_bytes(note)
    out.print(f"{newer.origin}: {told}", markup=False, highlight=False, soft_wrap=True)


def compare(http: httpx.Client, state: Path, newer: Checkpoint, trusted: list[TrustedKey]) -> str:
    """Compare with the checkpoint that is kept; says what was found. Raises NotProven."""
    if not state.exists():
        return f"{newer.size} entries; nothing to compare with yet."
    older = read_checkpoint(state.read_bytes(), keys=trusted)
    path: list[bytes] = []
    if older.size <= newer.size:
        sizes = {"first": older.size, "second": newer.size}
        answer = client.content(client.send(http, "GET", "/log/proof/consistency", params=sizes))
        path = [bytes.fromhex(step) for step in answer["path"]]
    check_consistency(older, newer, path)
    return f"{newer.size} entries, of which the first {older.size} are those of the last time."


def fetch_leaves(http: httpx.Client, size: int) -> list[bytes]:
    """Fetch the log's first `size` leaves."""
    leaves: list[bytes] = []
    while len(leaves) < size:
        page = client.content(client.send(http, "GET", "/log/leaves", params={"start": len(leaves)}))["leaves"]
        if not page:
            break
        leaves += map(base64.b64decode, page)
    return leaves[:size]
