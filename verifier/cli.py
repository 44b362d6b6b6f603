"""The command `expunge-verify`: the same check as `expunge verify`, with only `cryptography` installed."""

import argparse
import os
import sys
from collections.abc import Sequence
from io import TextIOWrapper
from pathlib import Path

from verifier.checking import format_outcome, verify_files


def main(arguments: Sequence[str] | None = None) -> int:
    """Check the files that the command line names; return 0 if the statement is proven, else 1."""
    parser = argparse.ArgumentParser(
        prog="expunge-verify",
        description="Check a statement signed by Expunge offline, and print what is proven and what no check can show.",
    )
    parser.add_argument("statement", type=Path, help="the signed statement (GET /reports/{id}/statement)")
    parser.add_argument(
        "--key",
        type=Path,
        action="append",
        required=True,
        help="a public key (PEM) or the JSON of GET /keys; may be repeated",
    )
    parser.add_argument("--report", type=Path, help="the report as JSON: check that it is the statement's report")
    parser.add_argument("--weights", type=Path, help="a file of weights: check that the statement is about them")
    parser.add_argument(
        "--sample", type=Path, help="a proof of inclusion: check that the sample is among the forgotten ones"
    )
    parser.add_argument(
        "--subject",
        type=Path,
        help="a proof of inclusion: check that the person is among those whose samples were forgotten",
    )
    parser.add_argument(
        "--log", type=Path, help="a proof from the log (GET /jobs/{id}/log-entry): check that the result was logged"
    )
    given = parser.parse_args(arguments)
    outcome = verify_files(
        given.statement,
        keys=given.key,
        report=given.report,
        weights=given.weights,
        sample=given.sample,
        subject=given.subject,
        log=given.log,
    )
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # A letter that the terminal does not have must not change the status.
    try:
        print(format_outcome(outcome), flush=True)
    except BrokenPipeError:  # the reader, such as `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 1 if outcome.refused else 0


if __name__ == "__main__":
    sys.exit(main())
