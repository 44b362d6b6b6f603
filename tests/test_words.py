"""The words that the glossary has replaced appear nowhere: not in the text of code, help and pages, and not in names."""

import ast
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

from tests.ops.files import ROOT

TEXT = re.compile(
    r"\b(couriers?|notar(y|ies)|tether(s|ed)?|turnstiles?|leftovers?|tid(y|ies|ied)|drain(s|ed|ing)?|canvas(es)?|shortfalls?|"
    r"journals?|told|dut(y|ies)|in pieces|(go|goes|going|went|gone) on to|cut-off)\b",
    re.IGNORECASE,
)
"""What has no other use in the project."""

NAMES = {
    *("courier", "notary", "tether", "turnstile", "leftovers", "tidy", "drain", "canvas", "shortfall", "journal", "told", "duty"),
    *("guides", "passing", "pieces", "lengthened", "lapsed", "notices", "push", "material", "look"),
}  # fmt: skip
"""What means something else in a sentence, and nothing as a name or as a part of one."""

MODULES = {"answers", "drain", "flag", "guides", "notices", "passes", "passing", "trial", "watch", "words"}

BINARY = {".png", ".jpg", ".pdf", ".gz", ".ico", ".woff2", ".der", ".npz", ".safetensors"}
OTHERS = {"LICENSE", "package-lock.json"}
"""Files that hold no text, and texts of others."""

DEFINITIONS = {"Watch", "held", "kept", "give_up"}
"""Of functions and classes. `Trial` is the word of the field for one try of a search, and stays."""

CONSTANTS = {"MOST", "LONGEST", "FEW", "KEPT", "HOLD", "AHEAD"}
"""As a constant's first or last word: MAX_…, …_LIMIT and …_RETENTION say it."""


def tracked(*patterns: str) -> list[Path]:
    """The project's files. The changelog and the migrations tell of the past; this file names the words."""
    found = subprocess.run(["git", "ls-files", *patterns], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    left_out = ("CHANGELOG.md", "migrations/versions/", "benchmarks/results/", "tests/test_words.py")
    return [ROOT / name for name in found.splitlines() if not name.startswith(left_out) and (ROOT / name).exists()]


def replaced(path: Path) -> Iterator[tuple[int, str]]:
    """The names that a module gives to functions, classes, parameters and variables, and that are, or hold, a word of the past."""
    for node in ast.walk(ast.parse(path.read_text())):
        match node:
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
                is_replaced = name in DEFINITIONS
            case (
                ast.arg(arg=name)
                | ast.Name(id=name, ctx=ast.Store())
                | ast.Attribute(attr=name, ctx=ast.Store())
                | ast.alias(asname=str(name))
            ):
                is_replaced = False
            case _:
                continue
        words = re.sub(r"([a-z])([A-Z])", r"\1_\2", name).strip("_").split("_")
        of_constant = {words[0], words[-1]} if name.isupper() else set()
        if is_replaced or NAMES & {word.lower() for word in words} or CONSTANTS & of_constant:
            yield node.lineno, name


def test_no_text_has_a_replaced_word() -> None:
    files = [path for path in tracked() if path.suffix not in BINARY and path.name not in OTHERS]
    found = [
        f"{path.relative_to(ROOT)}:{number}: {match[0]}"
        for path in files
        for number, line in enumerate(path.read_text().splitlines(), start=1)
        for match in TEXT.finditer(line)
    ]
    assert found == []


def test_no_name_has_a_replaced_word() -> None:
    files = [path for path in tracked("*.py") if not path.is_relative_to(ROOT / "tests")]  # a test's name is a sentence
    found = [f"{path.relative_to(ROOT)}:{line}: {name}" for path in files for line, name in replaced(path)]
    assert found == []
    assert [path for path in files if path.stem in MODULES] == []
