import re
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

from expunge.cli import main as cli
from service.settings import Settings as ServiceSettings
from tests.ops.files import ROOT
from worker.settings import Settings as WorkerSettings

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
def test_every_link_leads_somewhere(document: Path) -> None:
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


def test_the_readme_names_every_folder() -> None:
    tree = (ROOT / "README.md").read_text()
    folders = {
        path.name
        for path in ROOT.iterdir()
        if path.is_dir() and not path.name.startswith(".") and any(path.glob("*.py"))
    }

    assert {folder for folder in folders if f"{folder}/" not in tree} == set()


def test_every_path_in_the_readmes_tree_is_there() -> None:
    text = (ROOT / "README.md").read_text()
    (tree,) = re.findall(r"<!-- tree -->\n+```text\n(.*?)```", text, flags=re.DOTALL)

    for line in tree.splitlines():
        for path in re.split(r"\s{2,}", line)[0].split(", "):
            assert (ROOT / path).exists(), path


def test_the_readmes_commands_are_the_makefiles() -> None:
    targets = set(re.findall(r"^([a-z][\w-]*):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    used = set(re.findall(r"^make ([\w-]+)", (ROOT / "README.md").read_text(), flags=re.MULTILINE))

    assert {"setup", "run", "demo", "test", "test-all", "check", "bench", "clean"} <= targets
    assert {"demo", "test", "run"} <= used <= targets


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


def test_the_table_of_settings_is_that_of_the_code() -> None:
    rows = dict(
        re.findall(r"^\| `([A-Z_]+)` \|[^|]*\| (.*) \|$", (ROOT / "docs/operations.md").read_text(), flags=re.MULTILINE)
    )
    for field in [*ServiceSettings.model_fields.values(), *WorkerSettings.model_fields.values()]:
        told = rows[str(field.validation_alias)].replace("`", "")
        if field.is_required():
            assert told.startswith("required"), field.validation_alias
        elif not field.default:
            assert told.startswith("none"), field.validation_alias
        else:
            value = told.split(";")[0].split(" MiB")
            default = int(value[0]) * (1 << 20) if len(value) > 1 else type(field.default)(value[0])
            assert default == field.default, field.validation_alias
