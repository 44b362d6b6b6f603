"""Write what was recorded into the documents: the demo's output, the verifier's on the demo's files, and what a report costs.

make demo > demo.log && .venv/bin/python docs/recorded.py demo.log reports    (what a report costs: python -m benchmarks.reports)
"""

import json
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
README, VERIFYING = ROOT / "README.md", ROOT / "docs" / "verifying.md"
COSTS = ROOT / "benchmarks" / "results" / "reports.json"
FORMS = ("json", "html", "pdf", "statement")


def main(log: Path, folder: Path) -> None:
    """Rewrite the blocks in their places."""
    first, second = sorted(path.stem for path in folder.glob("*-version-*.json"))
    readme = README.read_text()
    README.write_text(within(readme, shown(log.read_text(), first=first), after="<!-- demo output: begin -->"))
    page = re.sub(r"digits-version-\d+(?=\.dsse --key)", first, VERIFYING.read_text())
    page = re.sub(r"(?<=--report )digits-version-\d+(?=\.json` in)", first, page)
    page = re.sub(r"(?<=`--report )digits-version-\d+", second, page)
    page = within(page, verified(folder, first, report=first), after="## A good file")
    page = within(page, verified(folder, first, report=second), after="## A file that does not belong")
    VERIFYING.write_text(costs(page))


def within(page: str, text: str, *, after: str) -> str:
    """The page with the next text block after a place made anew."""
    start = page.index("```text\n", page.index(after)) + len("```text\n")
    return page[:start] + text + page[page.index("\n```", start) :]


def shown(log: str, *, first: str) -> str:
    """The demo's output, without the folders of the machine that it ran on, to its own last line: a shell may have timed it."""
    own = re.match(r".*^Took .*?$", log, re.DOTALL | re.MULTILINE)
    lines = [line.rstrip() for line in (own[0] if own else log).splitlines() if not line.startswith("Setting up")]
    lines = [
        re.sub(r"^  /\S*/(?=reports/)", "  ", re.sub(r"file:///\S*/(?=reports/)", "file:///…/", line)) for line in lines
    ]
    command = f"  expunge verify …/{first}.dsse --key …/signing-key.pem --report …/{first}.json"
    return "\n".join(command if line.startswith("  expunge verify ") else line for line in lines).strip("\n")


def verified(folder: Path, statement: str, *, report: str) -> str:
    """What `expunge-verify` says of a statement and a report."""
    files = (f"{statement}.dsse", "--key", "signing-key.pem", "--report", f"{report}.json")
    command = (sys.executable, "-m", "verifier.cli", *files)
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False).stdout.rstrip("\n")


def costs(page: str) -> str:
    """The page with the rows of its table of costs made anew from the benchmark's results."""
    rows = json.loads(COSTS.read_text())["rows"]
    mean = {(row["case"], row["method"], row["metric"]): row["mean"] for row in rows}
    lines = []
    for case in dict.fromkeys(row["case"] for row in rows):
        size = {form: mean[case, form, "bytes"] / 1000 for form in FORMS}
        time = {form: mean[case, form, "processor_seconds"] for form in (*FORMS, "manifest")}
        cells = [f"{size[form]:.0f} kB, {seconds(time[form])}" for form in FORMS]
        lines.append(f"| {int(case.split()[0]):,} | {' | '.join(cells)} | {seconds(time['manifest'])} |")
    start = page.index("|---|---|---|---|---|---|\n") + len("|---|---|---|---|---|---|\n")
    return page[:start] + "\n".join(lines) + page[page.index("\n\n", start) :]


def seconds(time: float) -> str:
    """A time as the table has it."""
    return f"{time:.2f} s" if time >= 0.1 else f"{1000 * time:.{1 if time >= 0.0005 else 2}f} ms"


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
