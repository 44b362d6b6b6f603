"""What the pages say about commands, targets and metrics is true. Generated tables, and links in MkDocs: `make check`."""

import re
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

from expunge.cli import main as cli
from tests.ops.files import ROOT
from tests.ops.test_metrics import CONTRACT

DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])


def without_code(text: str) -> str:
    """The prose: code blocks and code spans hold no links."""
    return re.sub(r"`[^`\n]*`", "", re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL))


def anchors(path: Path) -> set[str]:
    """The anchors of a document's headings, as GitHub makes them."""
    prose = re.sub(r"^```.*?^```", "", path.read_text(), flags=re.MULTILINE | re.DOTALL)
    headings = re.findall(r"^#+ (.+)$", prose, flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_link_leads_somewhere_on_github(document: Path) -> None:
    text = without_code(document.read_text())
    links = re.findall(r"\]\(([^)\s]+)", text) + re.findall(r'(?:src|srcset|href)="([^"]+)"', text)
    for link in links:
        if re.match(r"https?://|mailto:", link):
            continue
        name, _, anchor = link.partition("#")
        target = (document.parent / name).resolve() if name else document
        assert target.exists(), link
        if anchor:
            assert anchor in anchors(target), link


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_make_target_exists(document: Path) -> None:
    targets = set(re.findall(r"^([a-z][\w-]*):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    text = document.read_text()

    assert set(re.findall(r"(?:^|`)make ([a-z][\w-]*)", text, flags=re.MULTILINE)) <= targets


def commands_in(document: Path) -> list[list[str]]:
    """The `expunge …` lines of a document's shell blocks, as words."""
    blocks = re.findall(r"^```sh\n(.*?)^```", document.read_text(), flags=re.MULTILINE | re.DOTALL)
    lines = [line.split("  #")[0] for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    found = [re.search(r"(?:^|\boperator |\bentrypoint )expunge (.*)", line.strip()) for line in lines]
    return [re.sub(r"[|>].*", "", match[1]).split() for match in found if match]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_expunge_command_and_option_exists(document: Path) -> None:
    for words in commands_in(document):
        command: Any = get_command(cli.app)
        while hasattr(command, "commands"):
            assert words[0] in command.commands, words
            command = command.commands[words.pop(0)]
        known = {option for parameter in command.params for option in parameter.opts} | {"--help"}
        assert {word.split("=")[0] for word in words if word.startswith("--")} <= known, words


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_shell_takes_a_part_of_an_address_for_a_modifier(document: Path) -> None:
    """In zsh "$JOB:cancel" is JOB changed by :c, and "ancel"; "${JOB}:cancel" is the same in every shell."""
    blocks = re.findall(r"^ *```(?:sh|console|text)\n(.*?)^ *```", document.read_text(), flags=re.MULTILINE | re.DOTALL)

    assert re.findall(r"\$\w+:[A-Za-z]\w*", "\n".join(blocks)) == []


def test_every_metric_is_documented_with_its_type_and_labels_and_no_other() -> None:
    page = (ROOT / "docs/metrics.md").read_text()
    rows = re.findall(r"^\| (`expunge_.*?) \| (\w+)(.*?) \|", page, flags=re.MULTILINE)
    documented = {
        name: (kind, {*re.findall(r"`(\w+)`", labels)})
        for names, kind, labels in rows
        for name in re.findall(r"expunge_\w+", names)
    }

    assert documented == {name: (kind, {*labels}) for name, (kind, labels) in CONTRACT.items()}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_path_of_the_project_exists(document: Path) -> None:
    rooms = "|".join(path.name for path in ROOT.iterdir() if path.is_dir() and not path.name.startswith("."))
    named = re.findall(rf"`((?:{rooms})/[\w./-]*)`", document.read_text())

    assert [path for path in named if not (ROOT / path).exists()] == []


def test_what_the_architecture_places_is_defined_there() -> None:
    placed = re.findall(r"`(\w+)` in `([\w/]+\.py)`", (ROOT / "docs/architecture.md").read_text())

    assert len(placed) > 5
    for name, path in placed:
        assert re.search(rf"^(?:def |class )?{name}\b", (ROOT / path).read_text(), flags=re.MULTILINE), (name, path)


def test_every_decision_is_listed() -> None:
    listed = (ROOT / "docs/decisions/README.md").read_text()

    assert [path.name for path in ROOT.glob("docs/decisions/0*.md") if f"({path.name})" not in listed] == []


def test_the_runbook_names_the_tests_of_each_fault() -> None:
    """By their files: a row that refers to the one above is wrong once another comes between them."""
    _, _, found = (ROOT / "docs/runbook.md").read_text().partition("| event | effect | tested in |")
    rows = [line for line in found.partition("\n\n")[0].splitlines() if line.startswith("| ")]

    assert len(rows) > 15
    assert [row for row in rows if "`tests/" not in row.rpartition(" | ")[2]] == []
