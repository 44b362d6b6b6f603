"""The command `expunge-verify`: what `expunge verify` does, with nothing but `cryptography` installed."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from verifier.checking import told, verify_files


def main(arguments: Sequence[str] | None = None) -> int:
    """Check what the command line names; 0 where it is proven, 1 where it is not."""
    parser = argparse.ArgumentParser(
        prog="expunge-verify",
        description="Check a signed statement of Expunge offline, and say what that does not show.",
    )
    parser.add_argument("statement", type=Path, help="the signed statement (GET /reports/{id}/statement)")
    parser.add_argument(
        "--key",
        type=Path,
        action="append",
        required=True,
        help="a public key (PEM), or the JSON of GET /keys; repeatable",
    )
    parser.add_argument("--report", type=Path, help="the report's JSON: is it the one?")
    parser.add_argument("--weights", type=Path, help="a file of weights: are they the ones?")
    parser.add_argument("--sample", type=Path, help="a proof of inclusion: is that sample among those forgotten?")
    parser.add_argument(
        "--log", type=Path, help="a proof from the log (GET /jobs/{id}/log-entry): was it written down?"
    )
    given = parser.parse_args(arguments)
    outcome = verify_files(
        given.statement,
        keys=given.key,
        report=given.report,
        weights=given.weights,
        sample=given.sample,
        log=given.log,
    )
    print(told(outcome))
    return 1 if outcome.refused else 0


if __name__ == "__main__":
    sys.exit(main())
