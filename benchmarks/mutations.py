"""Whether the ledger's tests notice a broken promise: `python -m benchmarks.mutations`.

The tests must pass first. Then, for each promise in benchmarks/promises.py: break it, run the tests that should notice, and if none
of them fails all tests of the ledger. Status 1 if a promise can be broken and every test passes.
"""

import argparse
import os
import re
import subprocess
import sys
from pathlib import Path

from benchmarks.promises import PROMISES, VARIABLE, Promise
from benchmarks.writing import Row, row, write

ROOT = Path(__file__).parent.parent
LEDGER = "tests/ledger"
UNBROKEN = Promise("", (), ())
FAILED = re.compile(r"^(?:FAILED|ERROR) \S*?(\w+\.py)(?:::(\w+))?", re.MULTILINE)


def main() -> None:
    """Break every promise, print which test noticed, and write that."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--only", default="", help="only promises with this text in them; nothing is written")
    given = arguments.parse_args()
    rows: list[Row] = []
    chosen = [promise for promise in PROMISES if given.only in promise.text]
    failing = first_failure(UNBROKEN, *sorted({f"{LEDGER}/{file}" for promise in chosen for file in promise.tests}))
    if failing:
        sys.exit(f"The tests fail on the code as it is: {failing}.")
    for promise in chosen:
        test = noticed_by(promise)
        print(f"{promise.text:>62} | {test or 'NOT NOTICED'}", flush=True)
        case = {"case": promise.text, "method": test or "none", "unit": ""}
        rows.append(row([float(bool(test))], **case, metric="noticed"))
    if not given.only:
        print(write("mutations", rows))
    sys.exit(any(not figure.mean for figure in rows))


def noticed_by(promise: Promise) -> str:
    """Break a promise and return the first test that fails; empty if none does."""
    files = [f"{LEDGER}/{file}" for file in promise.tests]
    return first_failure(promise, *files) or first_failure(promise, LEDGER)


def first_failure(promise: Promise, *files: str) -> str:
    """Run test files with a broken promise and return the first test that fails; empty if all pass."""
    options = (
        "-q",
        "-x",
        "-p",
        "no:cacheprovider",
        "-p",
        "benchmarks.promises",
        "--tb=no",
        "-rfE",
        "-o",
        "timeout=1200",
    )
    ended = subprocess.run(
        [sys.executable, "-m", "pytest", *options, *files],
        cwd=ROOT,
        env={**os.environ, VARIABLE: promise.text, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
        timeout=3600,
    )
    found = FAILED.search(ended.stdout)
    if ended.returncode and found is None:
        raise RuntimeError(f"pytest ended with {ended.returncode}:\n{ended.stdout[-2000:]}{ended.stderr[-2000:]}")
    return f"{found[1]}: {(found[2] or 'import').removeprefix('test_')}" if found else ""


if __name__ == "__main__":
    main()
