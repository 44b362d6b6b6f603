"""Whether the ledger's tests see a broken promise: `python -m benchmarks.mutations`.

Each mutation of mutations.toml breaks one promise, in a copy of what was the last commit at the start. Against the copy run the
state machine (callers, workers and time in any order) and the tests that should notice, which are those of the files that are
changed unless the table names others; where they see nothing, all tests of the ledger. What nothing sees is a gap in the tests: the
command then ends with an error. Twenty minutes of one core.
"""

import argparse
import os
import re
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.writing import Row, row, write

ROOT = Path(__file__).parent.parent
TABLE = Path(__file__).with_suffix(".toml")
MACHINE = "tests/ledger/test_state_machine.py"
UNHURRIED = ("-o", "timeout=1200")
FAILED = re.compile(r"^(?:FAILED|ERROR) \S*?([\w/]+)\.py(?:::(\w+))?", re.MULTILINE)


def main() -> None:
    """Try every mutation, print who has seen it and write that."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--only", default="", help="those whose promise has this in it; nothing is written")
    given = arguments.parse_args()
    rows: list[Row] = []
    commit = subprocess.run(
        ["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.strip()
    with copied(commit) as folder:
        assert given.only or failures(folder, "tests/ledger") == [], "the tests fail on the code as it is"
    for mutation in tomllib.loads(TABLE.read_text())["mutation"]:
        if given.only not in mutation["promise"]:
            continue
        by_machine, by_test = seen(mutation, commit)
        print(
            f"{mutation['promise']:>60} | machine {'yes' if by_machine else 'no':>3} | {by_test or 'nothing'}",
            flush=True,
        )
        case = {"case": mutation["promise"], "method": by_test or "none", "unit": ""}
        rows += [
            row([float(by_machine)], **case, metric="seen_by_the_state_machine"),
            row([float(bool(by_test))], **case, metric="seen_by_a_test"),
        ]
    if not given.only:
        print(write("mutations", rows))
    sys.exit(any(not figure.mean for figure in rows if figure.metric == "seen_by_a_test"))


def seen(mutation: dict[str, Any], commit: str) -> tuple[bool, str]:
    """Whether the state machine fails on a mutation, and the first of the other tests that does; empty where none does."""
    with copied(commit) as folder:
        for change in mutation["change"]:
            path, old = folder / change["file"], change["old"]
            text = path.read_text()
            if old not in text:
                raise ValueError(f"{change['file']} has no longer what {mutation['promise']!r} changes: {old!r}")
            path.write_text(text.replace(old, change["new"]))
        stems = mutation.get("tests") or [Path(change["file"]).stem for change in mutation["change"]]
        likely = dict.fromkeys(f"tests/ledger/test_{stem}.py" for stem in stems)
        failed = failures(folder, MACHINE, *(name for name in likely if (folder / name).exists()))
        by_machine = [test for test in failed if test.startswith(f"{Path(MACHINE).stem}:")]
        others = [test for test in failed if test not in by_machine]
        # Only where those that should know best have seen nothing is everybody asked.
        others = others or failures(folder, "-x", "tests/ledger", f"--ignore={MACHINE}")
        return bool(by_machine), next(iter(others), "")


@contextmanager
def copied(commit: str) -> Iterator[Path]:
    """A copy of a commit."""
    with tempfile.TemporaryDirectory(prefix="expunge-mutation-") as folder:
        archive = subprocess.run(["git", "archive", commit], cwd=ROOT, capture_output=True, check=True)
        subprocess.run(["tar", "-x", "-C", folder], input=archive.stdout, check=True)
        yield Path(folder)


def failures(folder: Path, *arguments: str) -> list[str]:
    """The tests that fail in a copy of the code, as `file: test`, in their order."""
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "--tb=no",
        "-rfE",
        *UNHURRIED,
        *arguments,
    ]
    environment = {**os.environ, "PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1"}
    ended = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=1800
    )
    found = [f"{file.rpartition('/')[2]}: {test.removeprefix('test_')}" for file, test in FAILED.findall(ended.stdout)]
    if ended.returncode and not found:
        raise RuntimeError(f"pytest ended with {ended.returncode}:\n{ended.stdout[-2000:]}{ended.stderr[-2000:]}")
    return found


if __name__ == "__main__":
    main()
