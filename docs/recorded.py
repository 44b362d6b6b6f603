"""Record the demo's output in docs/demo.md, and the verifier's output on the demo's files in docs/verifying.md.

make demo > demo.log && .venv/bin/python docs/recorded.py demo.log reports
"""

import re
import subprocess
import sys
from pathlib import Path

DOCS = Path(__file__).parent
DEMO, VERIFYING = DOCS / "demo.md", DOCS / "verifying.md"


def main(log: Path, folder: Path) -> None:
    """Rewrite the recorded blocks of both pages from the demo's log and its folder of reports."""
    first, second = sorted(path.stem for path in folder.glob("*-version-*.json"))
    DEMO.write_text(
        replace_block(DEMO.read_text(), clean(log.read_text(), first=first), after="<!-- demo output: begin -->")
    )
    page = re.sub(r"digits-version-\d+(?=\.dsse --key)", first, VERIFYING.read_text())
    page = re.sub(r"(?<=--report )digits-version-\d+(?=\.json` in)", first, page)
    page = re.sub(r"(?<=`--report )digits-version-\d+", second, page)
    page = replace_block(page, verify(folder, first, report=first), after="## A good file")
    page = replace_block(page, verify(folder, first, report=second), after="## A file that does not belong")
    VERIFYING.write_text(page)


def replace_block(page: str, text: str, *, after: str) -> str:
    """Replace the first text block of a page after a marker."""
    start = page.index("```text\n", page.index(after)) + len("```text\n")
    return page[:start] + text + page[page.index("\n```", start) :]


def clean(log: str, *, first: str) -> str:
    """Remove local paths, set-up lines, unfinished progress, and what follows the demo's last line (`time` may have added it)."""
    own = re.match(r".*^Took .*?$", log, re.DOTALL | re.MULTILINE)
    lines = [line.rstrip() for line in (own[0] if own else log).splitlines() if not line.startswith("Setting up")]
    # Of the progress, which is a line every few seconds where the output is no terminal, the ends.
    lines = [line for line in lines if not re.match(r"\d+:\d\d:\d\d  ", line) or line.endswith("100%")]
    lines = [
        re.sub(r"^  /\S*/(?=reports/)", "  ", re.sub(r"file:///\S*/(?=reports/)", "file:///…/", line)) for line in lines
    ]
    command = f"  expunge verify …/{first}.dsse --key …/signing-key.pem --report …/{first}.json"
    return "\n".join(command if line.startswith("  expunge verify ") else line for line in lines).strip("\n")


def verify(folder: Path, statement: str, *, report: str) -> str:
    """Run `expunge-verify` on a statement and a report, and return what it prints."""
    files = (f"{statement}.dsse", "--key", "signing-key.pem", "--report", f"{report}.json")
    command = (sys.executable, "-m", "verifier.cli", *files)
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False).stdout.rstrip("\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
