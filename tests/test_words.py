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

PHRASES = re.compile(
    r"\b(a|one|each|every|no|the|this|last|next|first|two|both) looks?\b(?!-)|\blook(s|ed|ing)? (at|again|first)\b|"
    r"(?<![`\"/])\bmanifests?\b(?![`\"])",
    re.IGNORECASE,
)
"""What has another use in other sentences: to look for, up or like something is no check, evaluation or poll, and a manifest in
quotation marks is a name in a format.
"""

NAMES = {
    *("courier", "notary", "tether", "turnstile", "leftovers", "tidy", "drain", "canvas", "shortfall", "journal", "told", "duty"),
    *("guides", "passing", "pieces", "lengthened", "lapsed", "notices", "push", "material", "look", "looks", "looked"),
    "manifest",
}  # fmt: skip
"""What means something else in a sentence, and nothing as a name or as a part of one."""

FORMATS = {"manifest_root", "make_manifest"}
"""Names in formats that others read: of reports, and of OpenSSF's model signing."""

OF_MODELS = {"unlearning", "examples", "benchmarks"}
"""Where what is frozen is a part of a model. A batch is closed."""

MODULES = {"answers", "drain", "flag", "guides", "notices", "passes", "passing", "trial", "watch", "words"}

BINARY = {".png", ".jpg", ".pdf", ".gz", ".ico", ".woff2", ".der", ".npz", ".safetensors"}
OTHERS = {"LICENSE", "package-lock.json"}
"""Files that hold no text, and texts of others."""

DEFINITIONS = {"Watch", "held", "kept", "give_up"}
"""Of functions and classes. `Trial` is the word of the field for one try of a search, and stays."""

CONSTANTS = {"MOST", "LONGEST", "LONG", "FEW", "KEPT", "HOLD", "AHEAD"}
"""As a constant's first or last word: MAX_…, …_LIMIT and …_RETENTION say it."""

ROOMS = (
    *("expunge", "connectors", "unlearning", "report", "verifier", "telemetry", "examples", "benchmarks"),
    *("ledger", "service", "worker", "docs/*.md", "docs/*.py"),
)  # fmt: skip
"""Where the words in `PHRASES` are refused."""


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
                is_replaced = name in DEFINITIONS or name.startswith("forget_expired")
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
        refused = NAMES if path.relative_to(ROOT).parts[0] in OF_MODELS else NAMES | {"frozen"}
        if (
            is_replaced
            or (name not in FORMATS and refused & {word.lower() for word in words})
            or CONSTANTS & of_constant
        ):
            yield node.lineno, name


def found_in(files: list[Path], text: re.Pattern[str]) -> list[str]:
    """Each place at which the text of a file has what a pattern finds."""
    return [
        f"{path.relative_to(ROOT)}:{number}: {match[0]}"
        for path in files
        if path.suffix not in BINARY and path.name not in OTHERS
        for number, line in enumerate(path.read_text().splitlines(), start=1)
        for match in text.finditer(line)
    ]


def test_no_text_has_a_replaced_word() -> None:
    assert found_in(tracked(), TEXT) == []


def test_no_text_of_the_product_has_a_word_that_is_replaced_there() -> None:
    files = [path for path in tracked(*ROOMS) if path != ROOT / "docs" / "deploy.md"]  # it has manifests of Kubernetes
    assert files
    assert found_in(files, PHRASES) == []


def test_no_name_has_a_replaced_word() -> None:
    files = [path for path in tracked("*.py") if not path.is_relative_to(ROOT / "tests")]  # a test's name is a sentence
    found = [f"{path.relative_to(ROOT)}:{line}: {name}" for path in files for line, name in replaced(path)]
    assert found == []
    assert [path for path in files if path.stem in MODULES] == []
